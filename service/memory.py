"""What is kept for a day: first answers to request_ids, and who was taken out of which room."""

import json
from hashlib import sha256

from peewee import BigIntegerField, TextField

from service.database import DAY_MS, Table, now, prepared


class Memory(Table):
    """What is kept for a day: first answers to request_ids, and who was taken out of which room.

    `kept` is in milliseconds since 1970. Only who knows a key recognizes its digest.
    """

    digest = TextField(primary_key=True)
    value = TextField()
    kept = BigIntegerField(index=True)

    class Meta:
        without_rowid = True

    @classmethod
    def find(cls, *key):
        """The value of a key, or None."""
        for (value,) in cls.select_value(key_digest(key), now() - DAY_MS, now() + DAY_MS):
            return json.loads(value)
        return None

    @classmethod
    def keep(cls, value, *key):
        cls.delete_old(now() - DAY_MS, now() + DAY_MS)
        cls.insert_value(key_digest(key), json.dumps(value), now())

    @prepared
    def select_value(digest, earliest, latest):
        valid = Memory.kept.between(earliest, latest)
        return Memory.select(Memory.value).where(Memory.digest == digest, valid)

    @prepared
    def insert_value(digest, value, kept):
        return Memory.replace(digest=digest, value=value, kept=kept)

    @prepared
    def delete_old(earliest, latest):
        return delete_two_invalid(Memory, (Memory.kept < earliest) | (Memory.kept > latest))


def key_digest(key):
    return digest(json.dumps(key))


def digest(text):
    return sha256(text.encode()).hexdigest()


def delete_two_invalid(table, invalid):
    """Delete no more, or one request under a wrong clock would delete all."""
    key = table._meta.primary_key
    return table.delete().where(key.in_(table.select(key).where(invalid).limit(2)))
