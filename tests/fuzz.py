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


@schemathesis.check
def what_is_valid_is_taken(ctx, response, case):
    """As positive_data_acceptance has it, but for what no schema tells.

    It sees values at their limits, which pass by map_body.
    """
    if case.meta and case.meta.generation.mode.is_positive and response.status_code == 400:
        refused = response.json()
        assert refused["error"] == "invalid_field", refused
        assert BEYOND_SCHEMAS.search(refused["detail"]), refused
