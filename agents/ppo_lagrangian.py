"""Constrained PPO: an environment with `info["cost"]` goes in, a policy whose mean cost stays below a limit comes out.

PPO of stable-baselines3 on the advantage `(A_r - sum_k multiplier_k A_ck) / (1 + sum_k multiplier_k)`: mixed first,
standardised after, so that the step stays bounded at any multiplier and a multiplier keeps its unit, reward per cost.
The multiplier takes one step of dual ascent per rollout, before the policy does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Unpack

import numpy as np
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.utils import LinearSchedule, get_system_info, obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize
from torch import Tensor, nn

from agents.buffer import CostRolloutBuffer, Step
from agents.config import LagrangianConfig, PPOConfig
from agents.cost_policy import CostActorCriticCnnPolicy, CostActorCriticPolicy, map_observations
from agents.divergence import sampling
from agents.episodes import EpisodeMeter, check_environment, check_rewards, read_costs, within_bounds
from agents.multiplier import LagrangeMultiplier
from agents.objective import Weights, clip_gradients, mixed_advantages, ppo_slopes
from agents.retention import RetentionBuffer
from agents.sb3_settings import Keywords, check_kinds, check_loading, configured, policy_arguments
from agents.storage.agent_state import network_parameters
from agents.storage.archive import Target
from agents.storage.saving import SavedAgent, at_rest, awaken
from agents.truncation import bootstrap_truncated
from agents.update_log import RECORDED, per_constraint, update_metrics
from supervised.errors import ConfigError


class PPOLagrangian(PPO):
    """PPO under limits on the mean undiscounted cost of an episode.

    Args:
        policy: "MlpPolicy", "CnnPolicy" (pictures), "MultiInputPolicy" (Dict observations) or a class that derives from
            `CostActorCriticPolicy`.
        env: any environment of PPO whose info carries "cost", a float or an array of K. A `VecEnv` may offer
            `last_cost` (N, K) after each step instead; its observations are then taken without a copy, so it must
            return new arrays from every step.
        config: PPO's settings; `num_envs` belongs to whoever makes the environment and is not read here. None: the
            defaults of stable-baselines3.
        lagrangian: limits and multiplier; None: those of the audio gate, a limit of 0.003.
        n_constraints: K; None: as many as the retention buffer has, or as limits are given.
        retention: where the expected cost is computed exactly (discrete actions); None: mean of the rollout's episodes.
        policy_kwargs: for the policy; `n_constraints` comes from the agent, `net_arch` and `activation_fn` from the
            configuration where they are not given.
        seed: of the run; None: not seeded.
        device: of the network.
        tensorboard_log: folder of TensorBoard events; None: none.
        verbose: 1 prints stable-baselines3's table.
        keywords: settings by the names of stable-baselines3's PPO, such as learning_rate; they change `config`.

    Raises:
        ConfigError: a setting is unknown, out of range, or not there in a constrained agent.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": CostActorCriticPolicy,
        "CnnPolicy": CostActorCriticCnnPolicy,
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
        **keywords: Unpack[Keywords],
    ) -> None:
        check_kinds(policy, self.policy_aliases, lagrangian, n_constraints)
        if env is None and _init_setup_model:
            raise ConfigError("PPOLagrangian needs an environment, got None; give one, or the id of a registered one.")
        self.policy_name = policy if isinstance(policy, str) else None
        self.given_policy_kwargs = dict(policy_kwargs or {})
        self.config = configured(config, keywords, None if env is None else getattr(env, "num_envs", 1))
        self.lagrangian = lagrangian or LagrangianConfig()
        self.retention = retention
        self.n_constraints = _count_constraints(self.lagrangian, retention) if n_constraints is None else n_constraints
        self.multiplier = LagrangeMultiplier(self.lagrangian, self.n_constraints)
        self.hold_multiplier = False
        self.retention_missing = False
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
                "net_arch": {"pi": list(self.config.hidden), "vf": list(self.config.critic_hidden)},
                "activation_fn": nn.ReLU if self.config.activation == "relu" else nn.Tanh,
                **(policy_arguments(self.given_policy_kwargs) if self.policy_name else self.given_policy_kwargs),
                "n_constraints": self.n_constraints,
            },
            seed=seed,
            device=device,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            _init_setup_model=False,
        )
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        check_environment(self._vec_normalize_env, self.action_space)
        if self.retention is not None:
            self.retention.check(self.action_space, self.n_constraints, self.multiplier.limit)
        super()._setup_model()
        self.episodes = EpisodeMeter(self.n_envs, self.n_constraints)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if self.env is None:
            raise ConfigError(
                "This agent has no environment to learn on; give PPOLagrangian.load(..., env=...) one, or call set_env."
            )
        if self.retention_missing:
            raise ConfigError(
                "This agent measured its cost on a retention buffer, which its file does not hold; "
                "give PPOLagrangian.load(..., retention=...) one to go on training."
            )
        if reset_num_timesteps or self._last_obs is None:  # the environments will be reset
            self.episodes.restart()
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Take another environment of the same spaces and the same number of copies."""
        if isinstance(env, VecEnv):
            check_environment(unwrap_vec_normalize(env), self.action_space)
        super().set_env(env, force_reset)

    def set_limits(self, limits: float | Sequence[float] | np.ndarray) -> None:
        """Hold the costs below other limits from the next update on: one number, or one per constraint."""
        self.multiplier.set_limits(limits)

    @property
    def saturated(self) -> bool:
        """Whether a multiplier stands at its maximum while its cost is above the limit: the limit looks infeasible."""
        return bool(self.multiplier.saturated.any())

    # -- rollout ------------------------------------------------------------------------------------------------

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: CostRolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Fill the buffer with `n_rollout_steps` steps of every environment; False: a callback ended the training."""
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        callback.on_rollout_start()
        fresh = getattr(env, "last_cost", None) is not None  # its observations need no copy, see the class
        for _ in range(n_rollout_steps):
            with th.no_grad():
                observations = self.policy.prepare(obs_as_tensor(self._last_obs, self.device))
                if not fresh:
                    observations = map_observations(th.clone, observations)
                with sampling(self.num_timesteps, self._last_obs):
                    actions, log_probs, values, cost_values = self.policy.act(observations)
            new_observations, rewards, dones, infos = env.step(within_bounds(actions, self.action_space))
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            check_rewards(rewards)
            costs, fresh = read_costs(env, infos, self.n_constraints)
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
            if not fresh:
                self._update_info_buffer(infos, dones)
            bootstrap_truncated(step, dones, infos, self.policy, self.gamma, self.config.cost_gamma)
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
        multiplier = th.as_tensor(self.multiplier.value, dtype=th.float32, device=self.device)  # (K,)
        weights = Weights(self.ent_coef, self.vf_coef, self.config.cost_value_coefficient)
        records: list[Tensor] = []
        for _ in range(self.n_epochs):
            for batch in self.rollout_buffer.get(self.batch_size):
                advantages = mixed_advantages(batch, multiplier, self.normalize_advantage)
                with sampling(self.num_timesteps):
                    roots, slopes, record = ppo_slopes(self.policy, batch, advantages, clip_range, weights)
                if self.target_kl is not None and record[RECORDED.index("approx_kl")] > 1.5 * self.target_kl:
                    break
                records.append(record)
                for parameter in parameters:
                    parameter.grad = None
                th.autograd.backward(roots, slopes)
                clip_gradients(parameters, self.max_grad_norm)
                self.policy.optimizer.step()
            else:
                self._n_updates += 1
                continue
            break  # the policy has moved far enough
        self._record(records, clip_range)

    def _update_multiplier(self) -> None:
        """Measure the cost of the policy that made the rollout and take one step of dual ascent on it."""
        reward, cost = self.episodes.means()
        self.metrics = {} if reward is None else {"rollout/episode_reward": reward}
        if cost is not None:
            self.metrics |= per_constraint("rollout/episode_cost", cost)
        if self.retention is not None:
            cost = self.retention.expected_cost(self.policy)
        if cost is not None:  # None: no episode ended in this rollout
            self.multiplier.observe(cost) if self.hold_multiplier else self.multiplier.update(cost)
            self.metrics |= per_constraint("lagrange/cost", cost)
            self.metrics |= per_constraint("lagrange/excess", self.multiplier.excess)
        self.metrics |= per_constraint("lagrange/multiplier", self.multiplier.value)
        self.metrics |= per_constraint("lagrange/limit", self.multiplier.limit)
        self.metrics["lagrange/saturated"] = float(self.saturated)

    # -- log ----------------------------------------------------------------------------------------------------

    def dump_logs(self, iteration: int = 0) -> None:
        """Note that a dump is due; `train` writes it, so that a rollout and its update share one line."""
        self._dump_due = iteration

    def _record(self, records: list[Tensor], clip_range: float) -> None:
        self.metrics |= update_metrics(records, self.rollout_buffer.finished)
        self.metrics["train/clip_range"] = clip_range
        self.metrics["train/learning_rate"] = self.policy.optimizer.param_groups[0]["lr"]
        for name, value in self.metrics.items():
            self.logger.record(name, value)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if self._dump_due is not None:
            super().dump_logs(self._dump_due)
            self._dump_due = None

    # -- files --------------------------------------------------------------------------------------------------

    def save(self, path: Target, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """Write the agent, its multiplier and its optimiser to one file without a pickle (a path may lack `.zip`).

        Raises:
            ConfigError: `exclude` or `include` is given; what the file holds is fixed.
        """
        if exclude or include:
            raise ConfigError("PPOLagrangian.save always writes the same parts; leave exclude and include out.")
        at_rest(self).write(path)

    @classmethod
    def load(
        cls,
        path: Target,
        env: GymEnv | None = None,
        device: th.device | str = "cpu",
        custom_objects: None = None,
        print_system_info: bool = False,
        force_reset: Literal[True] = True,
        *,
        policy: type[CostActorCriticPolicy] | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        retention: RetentionBuffer | None = None,
        **keywords: Unpack[Keywords],
    ) -> PPOLagrangian:
        """Make an agent again from a file of `save`; nothing in the file is executed.

        Args:
            path: of the file.
            env: to learn or to evaluate on, of any number of copies; None: for `predict` alone.
            device: of the network.
            custom_objects: None; the file holds plain values only, so that nothing in it needs another object.
            print_system_info: print the versions of what runs here; the file holds none.
            force_reset: True; a saved agent starts new episodes.
            policy: the class of the policy, where it was not given by name.
            policy_kwargs: arguments of the policy, where a file cannot hold them (classes outside torch.nn, say).
            retention: the retention buffer, to go on training with one.
            keywords: settings that change, by the names of stable-baselines3's PPO, such as learning_rate.

        Raises:
            CheckpointError: the file is missing, damaged or another, or something that it cannot hold is not given.
            ConfigError: something is asked for that is not there, or a setting is unknown or out of range.
        """
        check_loading(custom_objects, force_reset, keywords)
        if print_system_info:
            get_system_info()
        saved = SavedAgent.read(path)
        if keywords:
            n_envs = saved.n_envs if env is None else getattr(env, "num_envs", 1)
            saved = replace(saved, config=configured(saved.config, keywords, n_envs))
        return awaken(cls, saved, env, device, policy, policy_kwargs, retention)

    def set_parameters(
        self, load_path_or_dict: Any, exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        """Take the weights and the optimiser's state of `get_parameters`, or of a file of `save`."""
        if not isinstance(load_path_or_dict, dict):
            load_path_or_dict = network_parameters(self.policy, SavedAgent.read(load_path_or_dict).tensors)
        super().set_parameters(load_path_or_dict, exact_match, device)


def _count_constraints(lagrangian: LagrangianConfig, retention: RetentionBuffer | None) -> int:
    if retention is not None:
        return retention.n_constraints
    return len(lagrangian.limit) if isinstance(lagrangian.limit, tuple) else 1
