"""What a node's settings say of releases: which one it starts with, and how others are followed."""

from collections.abc import Callable

from edge_node.config import NodeConfig
from edge_node.rollout.installed import Installed
from edge_node.rollout.receiver import Rollout, RolloutParts
from edge_node.rollout.trial import TrialPlan
from edge_node.runtime.executor import NodeParts
from federation.errors import ConfigError
from federation.identity.certificates import PEM_BYTES_MAX
from federation.identity.private_files import read_text
from federation.protocol.signing import Writer
from federation.protocol.task_messages import TaskReport
from federation.runtime.log import get_log
from federation.runtime.transport import Inbox

__all__ = ["installed_for", "rollout_for", "with_release"]


def installed_for(config: NodeConfig) -> Installed | None:
    """The releases of this device; None where its owner wants none.

    Raises:
        StorageError: What is kept of them is damaged.
    """
    if config.task.updates != "signed":
        return None
    installed = Installed(config.state_folder)
    installed.began()
    return installed


def with_release(config: NodeConfig, installed: Installed | None) -> NodeConfig:
    """The settings with the name of the task that runs: the newest release that was taken, or the owner's own."""
    if installed is None:
        return config
    number = installed.state.running
    get_log("rollout").info("task_release", number=number, on_trial=installed.on_trial)
    task = config.task.model_copy(update={"name": installed.name(config.task.name)})
    return config.model_copy(update={"task": task})


def rollout_for(
    config: NodeConfig, installed: Installed | None, parts: NodeParts, inbox: Inbox, busy: Callable[[], bool]
) -> Rollout | None:
    """What follows the federation's releases; None where the device's owner wants none.

    Raises:
        ConfigError: The authority's certificate cannot be read.
    """
    if installed is None:
        return None
    authority = config.task.authority or config.broker.tls_authority
    if authority is None:
        raise ConfigError("task.authority", "names no certificate")
    topics, node = parts.topics, parts.setup.node
    writer = Writer(topics, parts.signer, parts.sealing)

    def say(report: TaskReport) -> None:
        topic = topics.node_event(node)
        parts.transport.publish(topic, writer.encode(topic, report))

    return Rollout(
        RolloutParts(
            topics=topics,
            node=node,
            authority=read_text(authority, bytes_max=PEM_BYTES_MAX),
            installed=installed,
            plan=_plan(config, parts),
            transport=parts.transport,
            inbox=inbox,
            say=say,
            busy=busy,
        )
    )


def _plan(config: NodeConfig, parts: NodeParts) -> TrialPlan:
    task = config.task
    _, question, arguments = task.name.partition("?")
    return TrialPlan(
        context={
            "node_index": task.index,
            "node_count": task.count,
            "data": None if task.data is None else str(task.data.absolute()),
            "device": config.training.device,
            "seed": task.seed,
            "partition": task.partition,
        },
        arguments=f"{question}{arguments}",
        trains=not config.data.is_given,
        manifest=parts.setup.manifest.digest.hex(),
        seconds=task.trial_s,
    )
