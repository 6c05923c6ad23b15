"""Who is calling: tokens, who may do what, and leaving for good."""

import secrets
from threading import BoundedSemaphore
from time import sleep

from peewee import BigIntegerField, TextField, fn

from models import OPENID_AT_MOST, STEP, Ban, Member, Message, Room, User
from service.database import Refused, Table, apply, database, length, now, prepared
from service.memory import delete_two_invalid, digest

TOKEN_SECONDS = 7 * 24 * 60 * 60


class Caller:
    """Somebody whose identity is verified."""

    def __init__(self, openid):
        self.openid = openid

    def may_act_as(self, openid):
        return openid == self.openid

    def may_see_profile_of(self, openid):
        return openid == self.openid or Member.share_room(openid, self.openid)

    def may_remove(self, openid, room):
        return self.openid in (openid, room.room_owner_id)

    def may_read(self, room_id):
        return Member.exists(room_id, self.openid)


class Anyone(Caller):
    """Somebody in the open mode, in which each may do everything."""

    def __init__(self):
        super().__init__(openid=None)

    def may(self, *_):
        return True

    may_act_as = may_see_profile_of = may_remove = may_read = may


class Token(Table):
    """openid has logged in, until `expires`, in milliseconds since 1970.

    Only the token's SHA-256 is stored, so the time of a lookup tells an attacker nothing about the
    token.
    """

    digest = TextField(primary_key=True)
    openid = TextField(index=True, constraints=[length("openid", 1, OPENID_AT_MOST)])
    expires = BigIntegerField(index=True)

    class Meta:
        without_rowid = True

    @classmethod
    def issue(cls, openid):
        """A new token for openid, 32 random bytes as text; two that are invalid are deleted."""
        if Ban.exists(openid):
            raise Refused("banned")
        token = secrets.token_urlsafe(32)
        expires = now() + TOKEN_SECONDS * 1000
        cls.delete_invalid(now(), expires)
        cls.insert_token(digest(token), openid, expires)
        return token

    @classmethod
    def caller(cls, token, changes):
        """Whose token it is; a ban ends it, and says so to a request that changes something."""
        for openid, is_banned in cls.select_holder(
            digest(token), now(), now() + TOKEN_SECONDS * 1000
        ):
            if is_banned:
                raise Refused("banned" if changes else "login_required")
            return Caller(openid)
        raise Refused("login_required")

    @prepared
    def select_holder(digest, now, latest):
        valid = (Token.expires > now) & (Token.expires <= latest)
        bans = Ban.select().where(Ban.openid == Token.openid)
        return Token.select(Token.openid, fn.EXISTS(bans)).where(Token.digest == digest, valid)

    @prepared
    def forget(openid):
        some = Token.select(Token.digest).where(Token.openid == openid).limit(STEP)
        return Token.delete().where(Token.digest.in_(some)).returning(Token.openid)

    @prepared
    def insert_token(digest, openid, expires):
        return Token.insert(digest=digest, openid=openid, expires=expires)

    @prepared
    def delete_invalid(now, latest):
        return delete_two_invalid(Token, (Token.expires <= now) | (Token.expires > latest))


def forget(openid):
    """Delete what there is of openid but a ban and reports; whether there was anything.

    Each change deletes a few rows, since there may be many.
    """
    if not leavings.acquire(blocking=False):
        raise Refused("database_busy")
    try:
        found = [forget_all(table, openid) for table in (Token, User, Room, Message)]
        return any(found)
    finally:
        leavings.release()


leavings = BoundedSemaphore(2)  # at a time: each keeps a thread


def forget_all(table, openid):
    def forget_some():
        gone = table.forget(openid)
        database.must_empty_wal |= bool(gone)
        return gone

    found = False
    while apply(forget_some):
        found = True
        if database.loop is None:
            sleep(0.002)  # or a service beside this would find the file held all the time
    return found
