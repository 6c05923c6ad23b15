"""How often one person, or one address, may do something."""

import ipaddress
import math
import threading
from collections import OrderedDict
from contextlib import contextmanager
from itertools import islice
from time import monotonic

from service.database import Refused

OURS = ("database_busy", "wechat_unavailable")  # what a person is refused by no fault of theirs


class RateLimit:
    """So many at once by one person, then so many a second; counted in this process's memory."""

    def __init__(self, at_once, per_second):
        self.at_once = at_once
        self.per_second = per_second
        self.lock = threading.Lock()
        # until when somebody has used up their share; who counted last stands last
        self.used_until = OrderedDict()

    def count(self, person):
        """Count one more; Refused("too_many_requests") when that is too many."""
        with self.lock:
            now = monotonic()
            for other in list(islice(self.used_until, 2)):  # so that no more are kept than count
                if self.used_until[other] <= now:
                    del self.used_until[other]
            until = max(self.used_until.get(person, now), now) + 1 / self.per_second
            seconds = until - now - self.at_once / self.per_second
            if seconds > 0:
                raise Refused("too_many_requests", retry_after=math.ceil(seconds))
            self.used_until[person] = until
            self.used_until.move_to_end(person)

    @contextmanager
    def counting(self, person):
        """Count what is inside as one more, unless it fails and that is not the person's fault.

        A commit that fails in the loop comes later: that one stays counted.
        """
        self.count(person)
        try:
            yield
        except Exception as error:
            if not isinstance(error, Refused) or error.error in OURS:
                with self.lock:
                    self.used_until[person] = self.used_until.get(person, 0) - 1 / self.per_second
            raise


def network_of(address):
    """An address, or for IPv6 its network: whoever has one address has 2**64."""
    if ":" not in address:
        return address
    try:
        address = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:  # as a proxy may write it
        return address
    return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
