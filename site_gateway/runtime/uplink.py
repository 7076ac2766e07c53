"""In which form a site's sum goes up: the exact integers, or their mean coded once more for a thin link."""

from dataclasses import dataclass
from enum import StrEnum

from edge_node.records import Residual
from edge_node.training.update import ResidualChange, Shared, encode_update
from edge_node.training.worker import codec_seed
from federation.errors import TaskError
from federation.protocol.messages import RoundAnnouncement
from federation.types import NodeId
from site_gateway.records import SiteSum
from update_codec import Accumulator, CodecSpec, Manifest, SpecError, Vectors, read_sum

__all__ = ["CodedSum", "Form", "coded", "mean_of"]


class Form(StrEnum):
    """How the sum travels."""

    EXACT = "exact"
    """The integers: the bits of a federation without gateways."""
    MEAN = "mean"
    """Their mean by the announced codec: as many bytes as one node's update."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedSum:
    """A sum as it travels.

    Attributes:
        frame: Its bytes.
        codec: What made them.
        change: What coding did to the gateway's own residual; None where nothing was left out.
    """

    frame: bytes
    codec: str
    change: ResidualChange | None = None


def coded(
    made: SiteSum,
    announcement: RoundAnnouncement,
    manifest: Manifest,
    form: Form,
    *,
    node: NodeId,
    residual: Residual | None,
) -> CodedSum:
    """The site's sum in one of its forms.

    Args:
        made: Members and exact sum.
        announcement: What was asked for; its codec is the mean's.
        manifest: The model's.
        form: Which.
        node: Who the gateway is above.
        residual: What the gateway has left out of earlier means, float32 (D,); None is zero.

    Raises:
        CodecError: It cannot be coded so.
    """
    if form is Form.EXACT:
        return CodedSum(frame=made.frame, codec="sum")
    spec = CodecSpec.parse(announcement.codec).plain()
    shared = Shared(seed=codec_seed(announcement, node))
    try:
        update = encode_update(mean_of(made, manifest), manifest, spec, residual=residual, shared=shared)
    except TaskError as error:
        raise SpecError(str(error)) from error
    return CodedSum(frame=update.frame, codec=str(spec), change=update.change)


def mean_of(made: SiteSum, manifest: Manifest) -> Vectors:
    """The mean of a sum, by examples."""
    total = Accumulator(manifest)
    total.add_sum(read_sum(made.frame, manifest))
    return total.mean()
