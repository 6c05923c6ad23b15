"""What schemathesis makes up for the service, written as clients write it."""

import jsonschema_rs
import schemathesis

from document import BEYOND_SCHEMAS, LEAST_AND_MOST
from service.fields import FIELDS

TAKEN = {field: least for field, least, _ in LEAST_AND_MOST}
TAKEN |= {"room_id": 1, "message_id": 1, "code": "x"}


@schemathesis.hook
def map_body(context, body):
    if not isinstance(body, dict):
        return body
    return {field: as_clients_write(field, value) for field, value in body.items()}


def as_clients_write(field, value):
    """Write whole numbers as JSON.stringify does: JSON Schema takes 1.0 for an integer, too.

    And write what is taken where something is refused of which no schema tells.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    is_told = field not in FIELDS or not jsonschema_rs.is_valid(FIELDS[field].schema, value)
    return value if is_told or is_taken(field, value) else TAKEN[field]


def is_taken(field, value):
    try:
        FIELDS[field].read(value)
    except ValueError as problem:
        return not BEYOND_SCHEMAS.search(str(problem))
    return True
