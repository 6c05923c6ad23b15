"""How often one person, or one address, may do something."""

import ipaddress
import math
import threading
from time import monotonic

from service.database import Refused


class RateLimit:
    """So many at once by one person, then so many a second; counted in this process's memory."""

    def __init__(self, at_once, per_second):
        self.at_once = at_once
        self.per_second = per_second
        self.lock = threading.Lock()
        self.used_until = {}  # until when somebody has used up their share

    def count(self, person):
        """Count one more; Refused("too_many_requests") when that is too many."""
        with self.lock:
            now = monotonic()
            for other in [other for other, until in self.used_until.items() if until <= now]:
                del self.used_until[other]
            until = self.used_until.get(person, now) + 1 / self.per_second
            seconds = until - now - self.at_once / self.per_second
            if seconds > 0:
                raise Refused("too_many_requests", retry_after=math.ceil(seconds))
            self.used_until[person] = until


def network_of(address):
    """An address, or for IPv6 its network: whoever has one address has 2**64."""
    if ":" not in address:
        return address
    try:
        address = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:  # as a proxy may write it
        return address
    return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
