from pydantic import Field

from hsl_model.protocol.config import Message, NodeId


class NodeCreate(Message):
    node_id: NodeId = Field(description="stays for ever: folder on the hub, name in every plan")
    display_name: str | None = Field(default=None, min_length=1, max_length=120, description="None: the id")
