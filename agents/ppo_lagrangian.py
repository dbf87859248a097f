"""Constrained PPO: an environment with `info["cost"]` goes in, a policy whose mean cost stays below a limit comes out.

PPO of stable-baselines3 on the advantage `(A_r - sum_k multiplier_k A_ck) / (1 + sum_k multiplier_k)`: mixed first,
standardised after, so that the step stays bounded at any multiplier and a multiplier keeps its unit, reward per cost.
The multiplier takes one step of dual ascent per rollout, before the policy does.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import LinearSchedule, explained_variance, obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn
from torch.nn import functional as F

from agents.buffer import Batch, CostRolloutBuffer, Step
from agents.config import LagrangianConfig, PPOConfig
from agents.cost_policy import CostActorCriticPolicy
from agents.episodes import EpisodeMeter, read_costs
from agents.multiplier import LagrangeMultiplier
from agents.retention import RetentionBuffer
from supervised.errors import ConfigError, DataError


class PPOLagrangian(PPO):
    """PPO under limits on the mean undiscounted cost of an episode.

    Args:
        policy: "MlpPolicy", "MultiInputPolicy" (Dict observations) or a `CostActorCriticPolicy`.
        env: any environment of PPO whose info carries "cost", a float or an array of K; a `VecEnv` that offers
            `last_cost` (N, K) after each step, and never truncates an episode, is read without a look at its infos.
        config: PPO's settings; `num_envs` belongs to whoever makes the environment and is not read here.
        lagrangian: limits and multiplier.
        n_constraints: K; None: as many as the retention buffer has, or as limits are given.
        retention: where the expected cost is computed exactly (discrete actions); None: mean of the rollout's episodes.
        policy_kwargs: for the policy; `net_arch` and `n_constraints` come from the configuration.
        seed: of the run; None: not seeded.
        device: of the network.
        tensorboard_log: folder of TensorBoard events; None: none.
        verbose: 1 prints stable-baselines3's table.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": CostActorCriticPolicy,
        "MultiInputPolicy": CostActorCriticPolicy,
    }
    policy: CostActorCriticPolicy
    rollout_buffer: CostRolloutBuffer
    _last_obs: np.ndarray | dict[str, np.ndarray]
    _last_episode_starts: np.ndarray

    def __init__(
        self,
        policy: str | type[CostActorCriticPolicy],
        env: GymEnv | str | None,
        config: PPOConfig | None = None,
        lagrangian: LagrangianConfig | None = None,
        n_constraints: int | None = None,
        retention: RetentionBuffer | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        seed: int | None = None,
        device: th.device | str = "cpu",
        tensorboard_log: str | None = None,
        verbose: int = 0,
        _init_setup_model: bool = True,
    ) -> None:
        self.config = config or PPOConfig()
        self.lagrangian = lagrangian or LagrangianConfig()
        self.retention = retention
        self.n_constraints = _count_constraints(self.lagrangian, retention) if n_constraints is None else n_constraints
        self.multiplier = LagrangeMultiplier(self.lagrangian, self.n_constraints)
        self.hold_multiplier = False
        self.metrics: dict[str, float] = {}
        self._dump_due: int | None = None
        super().__init__(
            policy,
            env,
            learning_rate=LinearSchedule(self.config.learning_rate, self.config.final_learning_rate, 1.0),
            n_steps=self.config.n_steps,
            batch_size=self.config.batch_size,
            n_epochs=self.config.n_epochs,
            gamma=self.config.gamma,
            gae_lambda=self.config.gae_lambda,
            clip_range=self.config.clip_range,
            normalize_advantage=self.config.normalize_advantage,
            ent_coef=self.config.entropy_coefficient,
            vf_coef=self.config.value_coefficient,
            max_grad_norm=self.config.max_grad_norm,
            target_kl=self.config.target_kl,
            rollout_buffer_class=CostRolloutBuffer,
            rollout_buffer_kwargs={
                "cost_gamma": self.config.cost_gamma,
                "cost_gae_lambda": self.config.cost_gae_lambda,
            },
            policy_kwargs={
                "net_arch": list(self.config.hidden),
                **(policy_kwargs or {}),
                "n_constraints": self.n_constraints,
            },
            seed=seed,
            device=device,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            _init_setup_model=False,
        )
        if retention is not None and not isinstance(self.action_space, spaces.Discrete):
            raise ConfigError(f"A retention buffer needs a Discrete action space, got {self.action_space}; pass none.")
        if retention is not None and retention.n_constraints != self.n_constraints:
            raise ConfigError(
                f"The retention buffer has {retention.n_constraints} constraints, the agent {self.n_constraints}; "
                f"leave n_constraints out."
            )
        if _init_setup_model:
            self._setup_model()

    @property
    def saturated(self) -> bool:
        """Whether a multiplier stands at its maximum while its cost is above the limit: the limit looks infeasible."""
        return bool(self.multiplier.saturated.any())

    def _setup_model(self) -> None:
        super()._setup_model()
        self.episodes = EpisodeMeter(self.n_envs, self.n_constraints)

    # -- rollout ------------------------------------------------------------------------------------------------

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: CostRolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Fill the buffer with `n_rollout_steps` steps of every environment; False: a callback ended the training."""
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        callback.on_rollout_start()
        for _ in range(n_rollout_steps):
            with th.no_grad():
                observations = self.policy.prepare(obs_as_tensor(self._last_obs, self.device))
                actions, log_probs, values, cost_values = self.policy.act(observations)
            new_observations, rewards, dones, infos = env.step(self._within_bounds(actions.cpu().numpy()))
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            if not np.isfinite(rewards).all():
                raise DataError(
                    f"A reward must be a finite number, got {float(rewards[~np.isfinite(rewards)][0])}; "
                    f"check the environment's scores and latencies."
                )
            costs, fast = read_costs(env, infos, self.n_constraints)
            self.episodes.add(rewards, costs, dones)
            step = Step(
                observations,
                actions,
                self._tensor(rewards),
                self._tensor(costs),
                self._tensor(self._last_episode_starts),
                log_probs,
                values,
                cost_values,
            )
            if not fast:
                self._update_info_buffer(infos, dones)
                step = self._bootstrap_truncated(step, dones, infos)
            rollout_buffer.add(step)
            self._last_obs, self._last_episode_starts = new_observations, dones
        ends = self._tensor(dones)
        if dones.all():  # nothing goes on: the values of what comes next would be multiplied by 0
            last_values, last_cost_values = th.zeros_like(values), th.zeros_like(cost_values)
        else:
            with th.no_grad():
                last_values, last_cost_values = self.policy.predict_both_values(
                    self.policy.prepare(obs_as_tensor(new_observations, self.device))
                )
        rollout_buffer.finish(last_values, last_cost_values, ends)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _bootstrap_truncated(self, step: Step, dones: np.ndarray, infos: list[dict[str, Any]]) -> Step:
        """Add the value of where an episode was cut off by a time limit to its last reward and costs."""
        for i in np.flatnonzero(dones):
            if infos[i].get("TimeLimit.truncated", False) and infos[i].get("terminal_observation") is not None:
                terminal = self.policy.obs_to_tensor(infos[i]["terminal_observation"])[0]
                with th.no_grad():
                    value, cost_value = self.policy.predict_both_values(self.policy.prepare(terminal))
                step.rewards[i] += self.gamma * value[0]
                step.costs[i] += self.config.cost_gamma * cost_value[0]
        return step

    def _within_bounds(self, actions: np.ndarray) -> np.ndarray:
        if isinstance(self.action_space, spaces.Box):  # samples of a Gaussian know no bounds
            return np.clip(actions, self.action_space.low, self.action_space.high)
        return actions

    def _tensor(self, array: np.ndarray) -> Tensor:
        return th.from_numpy(np.array(array, dtype=np.float32)).to(self.device)  # a copy: we write to it

    # -- update -------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Update the multiplier, then policy and critics, from the rollout."""
        self._update_multiplier()
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        clip_range = self.clip_range(self._current_progress_remaining)
        parameters = list(self.policy.parameters())
        records: list[Tensor] = []
        for _ in range(self.n_epochs):
            for batch in self.rollout_buffer.get(self.batch_size):
                loss, record = self._loss(batch, clip_range)
                if self.target_kl is not None and record[4] > 1.5 * self.target_kl:
                    break
                records.append(record)
                self.policy.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
                self.policy.optimizer.step()
            else:
                self._n_updates += 1
                continue
            break  # the policy has moved far enough
        self._record(records, clip_range)

    def mixed_advantages(self, batch: Batch) -> Tensor:
        """Return (A_r - sum_k multiplier_k A_ck) / (1 + sum_k multiplier_k), standardised if so configured (B,)."""
        multiplier = th.as_tensor(self.multiplier.value, dtype=th.float32, device=self.device)  # (K,)
        mixed = (batch.advantages - batch.cost_advantages @ multiplier) / (1.0 + multiplier.sum())
        if self.normalize_advantage and len(mixed) > 1:
            mixed = (mixed - mixed.mean()) / (mixed.std() + 1e-8)
        return mixed

    def _loss(self, batch: Batch, clip_range: float) -> tuple[Tensor, Tensor]:
        log_probs, values, cost_values, entropy = self.policy.evaluate(batch.observations, batch.actions)
        advantages = self.mixed_advantages(batch)
        log_ratio = log_probs - batch.log_probs
        ratio = th.exp(log_ratio)
        clipped = th.clamp(ratio, 1 - clip_range, 1 + clip_range)
        policy_loss = -th.min(advantages * ratio, advantages * clipped).mean()
        value_loss = F.mse_loss(values, batch.returns)
        cost_value_loss = (cost_values - batch.cost_returns).square().mean(dim=0).sum()
        entropy_mean = entropy.mean() if entropy is not None else -log_probs.mean()
        loss = (
            policy_loss
            + self.vf_coef * value_loss
            + self.config.cost_value_coefficient * cost_value_loss
            - self.ent_coef * entropy_mean
        )
        with th.no_grad():
            divergence = (ratio - 1 - log_ratio).mean()  # http://joschu.net/blog/kl-approx.html
            clip_fraction = ((ratio - 1).abs() > clip_range).float().mean()
            record = th.stack(
                [policy_loss, value_loss, cost_value_loss, entropy_mean, divergence, clip_fraction, loss]
            )  # (7,), read once per rollout
        return loss, record

    def _update_multiplier(self) -> None:
        """Measure the cost of the policy that made the rollout and take one step of dual ascent on it."""
        reward, cost = self.episodes.means()
        self.metrics = {} if reward is None else {"rollout/episode_reward": reward}
        if cost is not None:
            self.metrics |= self._named("rollout/episode_cost", cost)
        if self.retention is not None:
            cost = self.retention.expected_cost(self.policy)
        if cost is not None:  # None: no episode ended in this rollout
            self.multiplier.observe(cost) if self.hold_multiplier else self.multiplier.update(cost)
            self.metrics |= self._named("lagrange/cost", cost)
            self.metrics |= self._named("lagrange/excess", self.multiplier.excess)
        self.metrics |= self._named("lagrange/multiplier", self.multiplier.value)
        self.metrics |= self._named("lagrange/limit", self.multiplier.limit)
        self.metrics["lagrange/saturated"] = float(self.saturated)

    # -- log ----------------------------------------------------------------------------------------------------

    def dump_logs(self, iteration: int = 0) -> None:
        """Note that a dump is due; `train` writes it, so that a rollout and its update share one line."""
        self._dump_due = iteration

    def _record(self, records: list[Tensor], clip_range: float) -> None:
        if records:
            names = ("policy_gradient_loss", "value_loss", "cost_value_loss", "entropy", "approx_kl", "clip_fraction")
            means = th.stack(records).mean(dim=0).tolist()
            self.metrics |= {f"train/{name}": mean for name, mean in zip(names, means, strict=False)}
            self.metrics["train/loss"] = float(records[-1][-1])
        rollout = self.rollout_buffer.finished
        predicted, returns = (rollout.returns - rollout.advantages).cpu().numpy(), rollout.returns.cpu().numpy()
        explained = explained_variance(predicted, returns)
        if np.isfinite(explained):  # constant returns have no variance to explain
            self.metrics["train/explained_variance"] = float(explained)
        self.metrics["train/clip_range"] = clip_range
        self.metrics["train/learning_rate"] = self.policy.optimizer.param_groups[0]["lr"]
        for name, value in self.metrics.items():
            self.logger.record(name, value)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if self._dump_due is not None:
            super().dump_logs(self._dump_due)
            self._dump_due = None

    def _named(self, name: str, values: np.ndarray) -> dict[str, float]:
        if self.n_constraints == 1:
            return {name: float(values[0])}
        return {f"{name}_{k}": float(value) for k, value in enumerate(values)}

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "retention"]


def _count_constraints(lagrangian: LagrangianConfig, retention: RetentionBuffer | None) -> int:
    if retention is not None:
        return retention.n_constraints
    return len(lagrangian.limit) if isinstance(lagrangian.limit, tuple) else 1
