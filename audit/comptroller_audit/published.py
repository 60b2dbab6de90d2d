"""Every packet's shape by record type, and the JSON Schemas that are published from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from pydantic import BaseModel

from comptroller_audit import shapes
from comptroller_audit.compensation_shapes import COMPENSATION_PACKETS
from comptroller_audit.entry_shapes import Envelope, Payload
from comptroller_audit.operator_shapes import OPERATOR_PACKETS
from comptroller_audit.packets import PACKET_VERSION, compact_json
from comptroller_audit.task_shapes import TASK_PACKETS
from comptroller_audit.trace_shapes import TRACE_PACKETS
from comptroller_audit.vocabulary import JsonObject, RecordType

__all__ = ["PACKETS", "check_packet", "publish", "published_schemas"]

PACKETS: Mapping[RecordType, type[BaseModel]] = MappingProxyType(
    {**shapes.PACKETS, **OPERATOR_PACKETS, **TASK_PACKETS, **TRACE_PACKETS, **COMPENSATION_PACKETS}
)
_WRAPPING: Mapping[str, type[BaseModel]] = MappingProxyType({"envelope": Envelope, "payload": Payload})
_SCHEMAS = Path(__file__).parent / "schemas"


def check_packet(kind: RecordType, packet: JsonObject) -> None:
    """Raises ValueError (Pydantic's, naming each field) when the packet is not one of this type."""
    PACKETS[kind].model_validate_json(compact_json(packet))


def published_schemas() -> dict[str, str]:
    """File name to text: one JSON Schema (2020-12) for the envelope, the payload and each record type."""
    models = {**_WRAPPING, **{kind.value: model for kind, model in PACKETS.items()}}
    texts: dict[str, str] = {}
    for name, model in models.items():
        schema = {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": f"urn:comptroller:{name}:v{PACKET_VERSION}",
            **model.model_json_schema(),
        }
        texts[f"{name}.v{PACKET_VERSION}.json"] = json.dumps(schema, indent=2, sort_keys=True) + "\n"
    return texts


def publish(folder: Path = _SCHEMAS) -> None:
    """Write the schemas into the package."""
    folder.mkdir(exist_ok=True)
    for name, text in published_schemas().items():
        (folder / name).write_text(text)
