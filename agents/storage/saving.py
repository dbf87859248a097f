"""What makes an agent again: `PPOLagrangian.save` writes a `SavedAgent`, `load` reads one and builds from it.

Everything is a plain value or a tensor: the arguments of the constructor, the spaces, the progress, the weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor, nn

from agents.config import LagrangianConfig, PPOConfig
from agents.storage.agent_state import Agent, network_parameters, network_tensors, progress_of, set_progress, under
from agents.storage.archive import Target, read_archive, write_archive
from agents.storage.space_json import describe_space, restore_space
from supervised.errors import CheckpointError, ConfigError


class Savable(Agent, Protocol):
    """What `at_rest` reads of an agent beside its progress, and `awaken` sets."""

    policy_name: str | None
    given_policy_kwargs: dict[str, Any]
    config: PPOConfig
    lagrangian: LagrangianConfig
    n_constraints: int
    n_envs: int
    seed: int | None
    tensorboard_log: str | None
    verbose: int
    retention: Any
    retention_missing: bool
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]

    def _setup_model(self) -> None: ...

    def set_parameters(self, load_path_or_dict: Any) -> None:
        """Take weights and optimiser state."""
        ...

    def set_env(self, env: GymEnv) -> None:
        """Take an environment."""
        ...


A = TypeVar("A", bound=Savable)


@dataclass(frozen=True)
class SavedAgent:
    """An agent at rest."""

    policy: str | None
    """Name of the policy; None: a class of the user's own, which a file cannot hold."""
    policy_kwargs: dict[str, Any] | None
    """The user's arguments of the policy; None: they hold objects that a file cannot hold."""
    config: PPOConfig
    lagrangian: LagrangianConfig
    n_constraints: int
    n_envs: int
    seed: int | None
    tensorboard_log: str | None
    verbose: int
    retention: bool
    """Whether the cost was measured on a retention buffer."""
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    progress: dict[str, Any]
    """What `progress_of` returns."""
    tensors: dict[str, Tensor]
    """What `network_tensors` returns."""

    def write(self, target: Target) -> None:
        """Write the file, whole or not at all."""
        observations, observation_bounds = describe_space(self.observation_space, "observation")
        actions, action_bounds = describe_space(self.action_space, "action")
        bounds = {f"space.{name}": th.tensor(array) for name, array in (observation_bounds | action_bounds).items()}
        contents = {
            "policy": self.policy,
            "policy_kwargs": None if self.policy_kwargs is None else _describe_arguments(self.policy_kwargs),
            "config": asdict(self.config),
            "lagrangian": asdict(self.lagrangian),
            "n_constraints": self.n_constraints,
            "n_envs": self.n_envs,
            "seed": self.seed,
            "tensorboard_log": self.tensorboard_log,
            "verbose": self.verbose,
            "retention": self.retention,
            "observation_space": observations,
            "action_space": actions,
            "progress": self.progress,
        }
        write_archive(target, contents, self.tensors | bounds)

    @classmethod
    def read(cls, source: Target) -> SavedAgent:
        """Read a file.

        Raises:
            CheckpointError: the file is missing, damaged or another.
        """
        contents, tensors = read_archive(source)
        try:
            bounds = {name: tensor.numpy() for name, tensor in under("space.", tensors).items()}
            arguments = contents["policy_kwargs"]
            return cls(
                policy=contents["policy"],
                policy_kwargs=None if arguments is None else _restore_arguments(arguments),
                config=PPOConfig(**_tuples(contents["config"])),
                lagrangian=LagrangianConfig(**_tuples(contents["lagrangian"])),
                n_constraints=contents["n_constraints"],
                n_envs=contents["n_envs"],
                seed=contents["seed"],
                tensorboard_log=contents["tensorboard_log"],
                verbose=contents["verbose"],
                retention=contents["retention"],
                observation_space=restore_space(contents["observation_space"], "observation", bounds),
                action_space=restore_space(contents["action_space"], "action", bounds),
                progress=contents["progress"],
                tensors=tensors,
            )
        except (KeyError, TypeError, AttributeError, AssertionError, ConfigError) as error:
            raise _damaged(error) from error


def at_rest(agent: Savable) -> SavedAgent:
    """Return what makes the agent again."""
    return SavedAgent(
        policy=agent.policy_name,
        policy_kwargs=agent.given_policy_kwargs,
        config=agent.config,
        lagrangian=agent.lagrangian,
        n_constraints=agent.n_constraints,
        n_envs=agent.n_envs,
        seed=agent.seed,
        tensorboard_log=agent.tensorboard_log,
        verbose=agent.verbose,
        retention=agent.retention is not None or agent.retention_missing,
        observation_space=agent.observation_space,
        action_space=agent.action_space,
        progress=progress_of(agent),
        tensors=network_tensors(agent.policy),
    )


def awaken(
    make: Callable[..., A],
    saved: SavedAgent,
    env: GymEnv | None,
    device: th.device | str,
    policy: type[BasePolicy] | None,
    policy_kwargs: Mapping[str, Any] | None,
    retention: Any,
) -> A:
    """Build the agent with `make`, the class of the agent; the other arguments are those of `PPOLagrangian.load`."""
    chosen = policy if policy is not None else saved.policy
    arguments = policy_kwargs if policy_kwargs is not None else saved.policy_kwargs
    if chosen is None or arguments is None:
        missing = "policy" if chosen is None else "policy_kwargs"
        raise CheckpointError(f"The agent was made with {missing} of its own; give load the same {missing}=...")
    try:
        agent = make(
            chosen,
            None,
            config=saved.config,
            lagrangian=saved.lagrangian,
            n_constraints=saved.n_constraints,
            retention=retention,
            policy_kwargs=dict(arguments),
            seed=saved.seed,
            device=device,
            tensorboard_log=saved.tensorboard_log,
            verbose=saved.verbose,
            _init_setup_model=False,
        )
        agent.observation_space, agent.action_space = saved.observation_space, saved.action_space
        agent.n_envs = saved.n_envs if env is None else getattr(env, "num_envs", 1)
        agent.retention_missing = saved.retention and retention is None
        agent._setup_model()
        set_progress(agent, saved.progress)
        agent.set_parameters(network_parameters(agent.policy, saved.tensors))
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        if isinstance(error, ConfigError) and (policy, policy_kwargs, retention) != (None, None, None):
            raise  # of what was given here, not of the file
        raise _damaged(error) from error
    if env is not None:
        agent.set_env(env)
    return agent


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a configuration, which holds tuples where JSON has lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _damaged(error: Exception) -> CheckpointError:
    reason = str(error).splitlines()[0] if str(error) else ""
    return CheckpointError(
        f"The saved agent does not fit together ({type(error).__name__}: {reason}); save it again with this version."
    )


def _describe_arguments(arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return arguments of a policy as JSON, modules of torch.nn by name; None: they hold what JSON cannot."""
    described: dict[str, Any] = {}
    for name, value in arguments.items():
        known = str(getattr(value, "__name__", ""))
        if isinstance(value, type) and getattr(nn, known, None) is value:
            described[name] = {"torch.nn": known}
            continue
        try:
            described[name] = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError):
            return None
    return described


def _restore_arguments(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that `_describe_arguments` described.

    Raises:
        KeyError: a name is none of a module in torch.nn.
    """
    arguments = dict(described)
    for name, value in described.items():
        if isinstance(value, dict) and value.keys() == {"torch.nn"}:
            module = getattr(nn, str(value["torch.nn"]), None)
            if not (isinstance(module, type) and issubclass(module, nn.Module)):
                raise KeyError(f"torch.nn has no module {value['torch.nn']}")
            arguments[name] = module
    return arguments
