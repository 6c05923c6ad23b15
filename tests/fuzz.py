"""What schemathesis makes up for the service, written as clients write it."""

import schemathesis

from document import BEYOND_SCHEMAS


NUMBERS = ("room_id", "message_id", "capacity", "limit", "before", "after")


@schemathesis.hook
def map_body(context, body):
    """Write whole numbers as JSON.stringify does, and numbers in texts as digits.

    JSON Schema takes 1.0 for an integer, too, and ours say nothing of digits.
    """
    if not isinstance(body, dict):
        return body
    return {field: as_clients_write(field, value) for field, value in body.items()}


def as_clients_write(field, value):
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return str(len(value)) if field in NUMBERS and isinstance(value, str) and value else value


@schemathesis.check
def what_is_valid_is_taken(ctx, response, case):
    """But for what no schema tells; in place of schemathesis's positive_data_acceptance."""
    if case.meta and case.meta.generation.mode.is_positive and response.status_code == 400:
        refused = response.json()
        assert refused["error"] == "invalid_field", refused
        assert BEYOND_SCHEMAS.search(refused["detail"]), refused
