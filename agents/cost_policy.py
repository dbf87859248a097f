"""The network of a constrained actor-critic: observations (N, ...) in; actions, values (N,) and cost values (N, K) out.

stable-baselines3's `ActorCriticPolicy` with one more critic for every constraint, each with its own hidden layers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
    create_mlp,
)
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from agents.layers import Layers, linear_layers
from supervised.errors import ConfigError

Observations = Tensor | dict[str, Tensor]


def map_observations(function: Callable[[Any], Any], observations: Any) -> Any:
    """Apply `function` to an observation, or to every part of a Dict observation."""
    if isinstance(observations, dict):
        return {name: function(part) for name, part in observations.items()}
    return function(observations)


class CostActorCriticPolicy(ActorCriticPolicy):
    """Policy, reward critic and `n_constraints` cost critics on one features extractor.

    Args:
        observation_space: what stable-baselines3 takes; a Dict is flattened and joined in the order of the space.
        action_space: what stable-baselines3's PPO takes.
        lr_schedule: learning rate as a function of the remaining progress.
        n_constraints: number of cost critics K.
        net_arch: hidden widths, as in stable-baselines3; the cost critics take those of the reward critic.
        activation_fn: between the layers.
        features_extractor_class: None: flatten, and join a Dict.
        features_extractor_kwargs: for the features extractor.
        ortho_init: whether weights are orthogonal at first.
        log_std_init: logarithm of the standard deviation of Box actions at first.
        normalize_images: whether pictures of uint8 are divided by 255.
        optimizer_class: of all parameters.
        optimizer_kwargs: for the optimiser, without the learning rate.
        use_sde: not supported, must be False.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        n_constraints: int = 1,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.Tanh,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        ortho_init: bool = True,
        log_std_init: float = 0.0,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        use_sde: bool = False,
    ) -> None:
        self.n_constraints = n_constraints
        if features_extractor_class is None:
            features_extractor_class = self.extractor_of(observation_space, normalize_images)
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=net_arch,
            activation_fn=activation_fn,
            ortho_init=ortho_init,
            use_sde=use_sde,
            log_std_init=log_std_init,
            features_extractor_class=features_extractor_class,
            features_extractor_kwargs=features_extractor_kwargs,
            normalize_images=normalize_images,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )

    @classmethod
    def extractor_of(cls, observations: spaces.Space, normalize_images: bool) -> type[BaseFeaturesExtractor]:
        """Return the features extractor where none is given."""
        return CombinedExtractor if isinstance(observations, spaces.Dict) else FlattenExtractor

    def _build(self, lr_schedule: Schedule) -> None:
        """Build what PPO has, then the cost critics, then the optimiser over both."""
        super()._build(lr_schedule)
        widths = self.net_arch.get("vf", []) if isinstance(self.net_arch, dict) else self.net_arch
        self.cost_critics = nn.ModuleList()
        for _ in range(self.n_constraints):
            critic = nn.Sequential(*create_mlp(self.features_dim, 1, list(widths), self.activation_fn))
            critic.apply(partial(self.init_weights, gain=np.sqrt(2)))
            critic[-1].apply(partial(self.init_weights, gain=1))
            self.cost_critics.append(critic)
        # One fused pass over all parameters: a third less time per update of a small network on a CPU.
        fused = {"fused": True} if self.optimizer_class in (th.optim.Adam, th.optim.AdamW) else {}
        self.optimizer = self.optimizer_class(
            self.parameters(), **{"lr": lr_schedule(1), **fused, **self.optimizer_kwargs}
        )
        # torch's distributions check and normalise what they are given, which costs more than the network's own heads.
        self.categorical = isinstance(self.action_dist, CategoricalDistribution)
        self._learned_features = next(self.features_extractor.parameters(), None) is not None

    def prepare(self, observations: Observations) -> Observations:
        """Return what the other methods take: features (N, F) at once where the extractor learns nothing."""
        return observations if self._learned_features else self.extract_features(observations)

    def act(self, prepared: Observations) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sample actions (N, ...); with them their log-probability (N,), values (N,) and cost values (N, K)."""
        features = self._features(prepared)
        latent, values, cost_values = self._heads(features)
        if self.categorical:
            log_policy = th.log_softmax(self.action_net(latent), dim=1)  # (N, A)
            actions = th.multinomial(log_policy.exp(), 1)  # (N, 1)
            return actions[:, 0], log_policy.gather(1, actions)[:, 0], values, cost_values
        distribution = self._get_action_dist_from_latent(latent)
        actions = distribution.get_actions()
        return actions, distribution.log_prob(actions), values, cost_values

    def evaluate(self, prepared: Observations, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return log-probability (N,), values (N,), cost values (N, K) and entropy (N,), None where it is not known."""
        features = self._features(prepared)
        latent, values, cost_values = self._heads(features)
        if self.categorical:
            log_policy = th.log_softmax(self.action_net(latent), dim=1)  # (N, A)
            log_probs = log_policy.gather(1, actions[:, None])[:, 0]
            return log_probs, values, cost_values, -(log_policy.exp() * log_policy).sum(dim=1)
        distribution = self._get_action_dist_from_latent(latent)
        return distribution.log_prob(actions), values, cost_values, distribution.entropy()

    def predict_both_values(self, prepared: Observations) -> tuple[Tensor, Tensor]:
        """Return values (N,) and cost values (N, K)."""
        features = self._features(prepared)
        values = self.value_net(self.mlp_extractor.forward_critic(features)).flatten()
        return values, self._cost_values(features)

    def heads(self, prepared: Observations) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (N, A), values (N,) and cost values (N, K); discrete actions only."""
        latent, values, cost_values = self._heads(self._features(prepared))
        return self.action_net(latent), values, cost_values

    def probabilities(self, observations: Observations) -> Tensor:
        """Return the probability of every action (N, A) for observations on any device; discrete actions only."""
        here = map_observations(lambda part: part.to(self.device), observations)
        features = self.extract_features(here, self.pi_features_extractor)
        return th.softmax(self.action_net(self.mlp_extractor.forward_actor(features)), dim=1)

    def policy_layers(self) -> Layers:
        """Return the layers from the observation to the logits."""
        return linear_layers((*self.mlp_extractor.policy_net, self.action_net))

    def save(self, path: str) -> NoReturn:
        """Refuse: stable-baselines3 would write a pickle, whose arguments this class does not take.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("A policy alone has no file here; give PPOLagrangian.save a path, which holds it as well.")

    @classmethod
    def load(cls, path: str, device: th.device | str = "auto") -> NoReturn:
        """Refuse: stable-baselines3 would open a pickle.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"Pickles are not opened, got {path}; take PPOLagrangian.load(...).policy.")

    def _features(self, prepared: Observations) -> Any:
        return self.extract_features(prepared) if self._learned_features else prepared  # (N, F)

    def _heads(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        latent_policy, latent_value = self.mlp_extractor(features)
        return latent_policy, self.value_net(latent_value).flatten(), self._cost_values(features)

    def _cost_values(self, features: Tensor) -> Tensor:
        if self.n_constraints == 0:
            return features.new_zeros((len(features), 0))
        return th.cat([critic(features) for critic in self.cost_critics], dim=1)  # (N, K)


class CostActorCriticCnnPolicy(CostActorCriticPolicy):
    """The same on pictures, seen through the convolutions of stable-baselines3's `CnnPolicy`."""

    @classmethod
    def extractor_of(cls, observations: spaces.Space, normalize_images: bool) -> type[BaseFeaturesExtractor]:
        """Return the convolutions.

        Raises:
            ConfigError: the observations are no pictures.
        """
        if not is_image_space(observations, check_channels=False, normalized_image=not normalize_images):
            raise ConfigError(
                f"CnnPolicy needs pictures, a Box of uint8 between 0 and 255 and of three dimensions, got "
                f"{observations}; use MlpPolicy, or policy_kwargs={{'normalize_images': False}} for pictures of floats."
            )
        return NatureCNN
