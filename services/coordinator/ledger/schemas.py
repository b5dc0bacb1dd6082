from pydantic import Field

from hsl_model.protocol.config import Message, NodeId


class RecoverRequest(Message):
    generation: int = Field(ge=1, description="as it was shown: done twice is refused the second time")
    not_revoked: tuple[NodeId, ...] = Field(
        default=(), description="nodes that others call revoked, and of which the admin knows better"
    )
