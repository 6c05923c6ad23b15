"""What schemathesis makes up for the service, written as clients write it."""

import schemathesis


@schemathesis.hook
def map_body(context, body):
    """Write whole numbers as JSON.stringify does; JSON Schema takes 1.0 for an integer, too."""
    if not isinstance(body, dict):
        return body
    return {
        field: int(value) if isinstance(value, float) and value.is_integer() else value
        for field, value in body.items()
    }
