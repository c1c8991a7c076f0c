"""The page described as OpenAPI: what gradio's description gets wrong, put right."""

from __future__ import annotations

from typing import Any


def corrected(schema: Any) -> Any:
    """Returns an OpenAPI schema in which a file is the object that an event takes, and a choice has its own type."""
    if isinstance(schema, list):
        return [corrected(value) for value in schema]
    if not isinstance(schema, dict):
        return schema
    if "filepath" in (schema.get("type"), schema.get("format")):
        told = {"type": "string", "description": "what POST /gradio_api/upload answered"}
        return {"type": "object", "properties": {"path": told}, "required": ["path"]}
    schema = {name: corrected(value) for name, value in schema.items()}
    if schema.get("enum") and all(type(value) is int for value in schema["enum"]):
        schema["type"] = "integer"
    return schema
