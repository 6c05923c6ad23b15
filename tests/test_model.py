"""Random lives of users and rooms, compared answer by answer with a model in plain Python."""

import tempfile
import unicodedata
from pathlib import Path

import pytest

pytest.importorskip("hypothesis", reason="needs hypothesis: pip install -r tests/requirements.txt")

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
)
from webtest import TestApp

from roomapp import app
from service.database import close_database
from service.moderation import Report
from service.schema import open_database

people = st.sampled_from(["ming", "hong", "gang"])
words = st.sampled_from(
    ["LOL", "ｌｏｌ", "开黑", "王者", "100%", "a_b", "C++", "🎮", "lol 开黑", "Straße"]
)
limits = st.none() | st.integers(1, 4)
nicknames = st.none() | st.sampled_from(["小明", "阿红"])
request_ids = st.none() | st.sampled_from("ab")


def fold_text(text):
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


class Room:
    def __init__(self, room_id, name, section, description, owner, capacity=500):
        self.room_id = room_id
        self.name = name
        self.section = section
        self.description = description
        self.members = [owner]
        self.capacity = capacity
        self.messages = []

    def as_answered(self):
        return {
            "room_id": self.room_id,
            "name": self.name,
            "section": self.section,
            "description": self.description,
            "room_owner_id": self.members[0],
            "users_id": self.members,
            "state": int(len(self.members) > 1),
            "capacity": self.capacity,
        }

    def rank(self, key):
        """How well a key finds this room, the least first; None if it does not."""
        name, section, description = map(fold_text, (self.name, self.section, self.description))
        parts = fold_text(key).split()
        if name == fold_text(key):
            return 0
        if all(part in name for part in parts):
            return 1
        texts = name, section, description
        return 2 if all(any(part in text for text in texts) for part in parts) else None


class Lives(RuleBasedStateMachine):
    rooms = Bundle("rooms")

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        open_database(Path(self.folder.name) / "roomapp.db")
        self.client = TestApp(app)
        self.profiles = {}
        self.nicknames = {}
        self.answers = {}
        self.living = {}
        self.reported = set()
        self.opened = 0
        self.last_time = self.client.get("/time").json["last_time"]
        self.changed = False

    @initialize(
        target=rooms, texts=st.lists(st.tuples(words, words, words), min_size=4, max_size=8)
    )
    def an_evening(self, texts):
        """Some rooms are there already, and hong talks in each."""
        room_ids = [self.add("ming", *each) for each in texts]
        for room_id in room_ids:
            self.join(room_id, "hong")
            for message in ("在吗", "在", "来"):
                self.send_message(room_id, "hong", message)
        return multiple(*room_ids)

    def teardown(self):
        close_database()
        self.folder.cleanup()

    def post(self, url, **fields):
        return self.client.post_json(url, fields, expect_errors=True)

    def done(self, url, changes=True, **fields):
        """Send what the model says can be done; the answer without its response_code."""
        answer = self.post(url, **fields).json
        assert answer.pop("response_code") == 1, answer
        self.changed |= changes
        return answer

    def assert_refused(self, error, url, **fields):
        assert self.post(url, **fields).json["error"] == error

    @invariant()
    def the_time_moves_with_every_change_and_only_then(self):
        last_time = self.client.get("/time").json["last_time"]
        if self.changed:
            assert last_time > self.last_time
        else:
            assert last_time == self.last_time
        self.last_time = last_time
        self.changed = False

    def once(self, url, openid, fields, request_id):
        """Send what can be done; the answer, and whether it is the first to this request_id."""
        key = url, openid, request_id, *fields.values()
        known = self.answers.get(key) if request_id else None
        answer = self.done(url, changes=known is None, **fields, request_id=request_id)
        assert known in (None, answer)
        self.answers[key] = answer
        return answer, known is None

    @rule(
        openid=people,
        sex=st.sampled_from([0, 1, "1", "男"]),
        preference=st.lists(words),
        nickname=nicknames,
    )
    def complete(self, openid, sex, preference, nickname):
        profile = (sex, preference, nickname or self.nicknames.get(openid, ""))
        changes = self.profiles.get(openid) != profile
        fields = {"openid": openid, "sex": sex, "preference": preference, "nickname": nickname}
        assert self.done("/usr/complete", changes, **fields) == {}
        self.profiles[openid] = profile
        if nickname:
            self.nicknames[openid] = nickname

    @rule(openid=people)
    def info(self, openid):
        if openid not in self.profiles:
            return self.assert_refused("user_not_found", "/usr/info", openid=openid)
        sex, preference, nickname = self.profiles[openid]
        answer = self.done("/usr/info", changes=False, openid=openid)
        assert answer == {"sex": sex, "preference": preference, "nickname": nickname}

    @rule(
        target=rooms,
        owner=people,
        name=words,
        section=words,
        description=words | st.just(""),
        capacity=st.sampled_from([2, 3]),
        request_id=request_ids,
    )
    def add(self, owner, name, section, description, capacity=500, request_id=None):
        texts = {"name": name, "section": section, "description": description}
        fields = {**texts, "room_owner_id": owner, "capacity": capacity}
        answer, is_new = self.once("/room/add", owner, fields, request_id)
        if is_new:
            self.opened += 1
            assert answer == {"room_id": self.opened}
            self.living[self.opened] = Room(self.opened, **texts, owner=owner, capacity=capacity)
        return answer["room_id"]

    @rule(
        room_id=rooms,
        openid=people,
        changes=st.fixed_dictionaries(
            {},
            optional={
                "name": words,
                "section": words,
                "description": words,
                "capacity": st.integers(2, 4),
            },
        ),
    )
    def edit(self, room_id, openid, changes):
        room = self.living.get(room_id)
        error = (
            "room_not_found"
            if room is None
            else "not_owner"
            if openid != room.members[0]
            else "capacity_too_small"
            if changes.get("capacity", 500) < len(room.members)
            else None
        )
        fields = {"room_id": room_id, "openid": openid, **changes}
        if error:
            return self.assert_refused(error, "/room/complete", **fields)
        new = any(getattr(room, field) != value for field, value in changes.items())
        assert self.done("/room/complete", new, **fields) == {}
        for field, value in changes.items():
            setattr(room, field, value)

    @rule(room_id=rooms, openid=people)
    def join(self, room_id, openid):
        room = self.living.get(room_id)
        if room is None:
            return self.assert_refused(
                "room_not_found", "/usr/join", room_id=room_id, openid=openid
            )
        new = openid not in room.members
        if new and len(room.members) >= room.capacity:
            return self.assert_refused("room_full", "/usr/join", room_id=room_id, openid=openid)
        assert self.done("/usr/join", new, room_id=room_id, openid=openid) == {}
        room.members += [openid] * new

    @rule(room_id=rooms, openid=people)
    def kick(self, room_id, openid):
        room = self.living.get(room_id)
        error = (
            "room_not_found"
            if room is None
            else "member_not_found"
            if openid not in room.members
            else "owner_cannot_leave"
            if openid == room.members[0]
            else None
        )
        if error:
            return self.assert_refused(error, "/room/kick", room_id=room_id, openid=openid)
        assert self.done("/room/kick", room_id=room_id, openid=openid) == {}
        room.members.remove(openid)

    @rule(room_id=rooms, openid=people)
    def delete(self, room_id, openid):
        room = self.living.get(room_id)
        if room is None:
            return self.assert_refused(
                "room_not_found", "/room/delete", room_id=room_id, openid=openid
            )
        if openid != room.members[0]:
            return self.assert_refused("not_owner", "/room/delete", room_id=room_id, openid=openid)
        assert self.done("/room/delete", room_id=room_id, openid=openid) == {}
        del self.living[room_id]

    @rule(room_id=rooms, openid=people, message=words, request_id=request_ids)
    def send_message(self, room_id, openid, message, request_id=None):
        room = self.living.get(room_id)
        fields = {"room_id": room_id, "openid": openid, "message": message}
        key = "/room/send_message", openid, request_id, *fields.values()
        known = request_id and key in self.answers
        if not known and (room is None or openid not in room.members):
            error = "room_not_found" if room is None else "not_member"
            return self.assert_refused(error, "/room/send_message", **fields)
        sent, is_new = self.once("/room/send_message", openid, fields, request_id)
        if is_new:
            earlier = [each["message_id"] for each in room.messages]
            assert sent["message_id"] > max(earlier, default=0)
            room.messages.append({"openid": openid, "message": message, **sent})
        assert self.client.get("/time").json["last_time"] >= sent["time"]

    @rule(room_id=rooms, openid=people, place=st.integers(0, 5))
    def delete_message(self, room_id, openid, place):
        room = self.living.get(room_id)
        messages = room.messages if room else []
        message = messages[place] if place < len(messages) else None
        error = (
            "room_not_found"
            if room is None
            else "message_not_found"
            if message is None
            else "not_owner"
            if openid not in (message["openid"], room.members[0])
            else None
        )
        message_id = message["message_id"] if message else 1
        fields = {"room_id": room_id, "openid": openid, "message_id": message_id}
        if error:
            return self.assert_refused(error, "/room/delete_message", **fields)
        assert self.done("/room/delete_message", bool(message["message"]), **fields) == {}
        message["message"] = ""

    @rule(room_id=rooms, openid=people, place=st.none() | st.integers(0, 5))
    def report(self, room_id, openid, place):
        room = self.living.get(room_id)
        messages = room.messages if room else []
        known = place is None or (place < len(messages) and messages[place]["message"] != "")
        message_id = messages[place]["message_id"] if known and place is not None else 1
        target = {"room_id": room_id, "openid": openid}
        target |= {} if place is None else {"message_id": message_id}
        error = "room_not_found" if room is None else None if known else "message_not_found"
        if error:
            return self.assert_refused(error, "/room/report", **target, reason="广告")
        assert self.done("/room/report", changes=False, **target, reason="广告") == {}
        if place is None:
            target = 0, "\n".join((room.name, room.section, room.description))
        else:
            target = message_id, messages[place]["message"]
        self.reported.add((openid, room_id, *target))
        columns = Report.reporter, Report.room_id, Report.message_id, Report.text
        kept = Report.select(*columns).tuples()
        assert sorted(kept) == sorted(self.reported)

    @rule(openid=people)
    def leave(self, openid):
        theirs = [room for room in self.living.values() if openid in room.members]
        said = [
            message
            for room in self.living.values()
            for message in room.messages
            if message["openid"] == openid
        ]
        changes = bool(openid in self.profiles or theirs or said)
        assert self.done("/usr/delete", changes, openid=openid) == {}
        self.profiles.pop(openid, None)
        self.nicknames.pop(openid, None)
        for message in said:
            message |= {"openid": "", "message": ""}
        for room in theirs:
            room.members.remove(openid)
            if not room.members:
                del self.living[room.room_id]

    @rule(room_id=rooms, limit=limits, place=st.integers(0, 5))
    def get_message(self, room_id, limit, place):
        room = self.living.get(room_id)
        if room is None:
            return self.assert_refused("room_not_found", "/room/get_message", room_id=room_id)
        ids = [each["message_id"] for each in room.messages] or [1]
        border = ids[place % len(ids)]
        older = [each for each in room.messages if each["message_id"] < border]
        newer = [each for each in room.messages if each["message_id"] > border]
        for found, page in [
            (room.messages, {}),
            (older, {"before": border}),
            (newer, {"after": border}),
        ]:
            self.check_messages(found, room_id, limit, page)

    def check_messages(self, found, room_id, limit, page):
        asked = page | ({"limit": limit} if limit else {})
        limit = limit or 100
        answer = self.done("/room/get_message", changes=False, room_id=room_id, **asked)
        messages = found[:limit] if "after" in page else found[-limit:]
        senders = self.names(message["openid"] for message in messages)
        has_more = len(found) > limit
        assert answer == {"messages": messages, "nicknames": senders, "has_more": has_more}

    def names(self, people):
        return {openid: self.nicknames[openid] for openid in people if openid in self.nicknames}

    def check_rooms(self, url, found, limit, people=None, **fields):
        """Compare a list of rooms with those that the model finds, in order."""
        asked = {"limit": limit} if limit else {}
        limit = limit or 100
        answer = self.done(url, changes=False, **asked, **fields)
        shown = found[:limit]
        rooms = [room.as_answered() for room in shown]
        if "openid" in fields:
            for room, each in zip(shown, rooms, strict=True):
                each["last_message_id"] = max(
                    (message["message_id"] for message in room.messages), default=0
                )
        names = self.names(people or [room.members[0] for room in shown])
        assert answer == {"rooms": rooms, "nicknames": names, "has_more": len(found) > limit}

    def newest(self, condition, before):
        rooms = sorted(self.living.values(), key=lambda room: -room.room_id)
        return [room for room in rooms if condition(room) and (not before or room.room_id < before)]

    @rule(openid=people, limit=limits, before=st.none() | st.integers(1, 9))
    def roomlists(self, openid, limit, before):
        page = {"limit": limit, "openid": openid} | ({"before": before} if before else {})
        owned = self.newest(lambda room: room.members[0] == openid, before)
        self.check_rooms("/usr/roomlist1", owned, **page)
        joined = self.newest(lambda room: openid in room.members[1:], before)
        self.check_rooms("/usr/roomlist2", joined, **page)

    @rule(section=words, limit=limits, before=st.none() | st.integers(1, 9))
    def section(self, section, limit, before):
        found = self.newest(lambda room: fold_text(room.section) == fold_text(section), before)
        page = {"before": before} if before else {}
        self.check_rooms("/room/section", found, limit, section=section, **page)

    @rule(
        key=words | st.sampled_from(["o", "l 开", "%", "_", "+ c", "王者 lol", "ss"]), limit=limits
    )
    def search(self, key, limit):
        found = self.newest(lambda room: room.rank(key) is not None, before=None)
        found.sort(key=lambda room: room.rank(key))
        self.check_rooms("/search", found, limit, key=key)

    @rule(room_id=st.integers(0, 9), form=st.sampled_from([int, str, "0{}".format]))
    def search_by_number(self, room_id, form):
        if room_id in self.living:
            room = self.living[room_id]
            self.check_rooms("/search", [room], None, room.members, key=form(room_id))
        else:
            self.search(key=str(form(room_id)), limit=None)


# What fails is not made shorter, which would take minutes.
briefly = settings(
    deadline=None, max_examples=12, stateful_step_count=40, phases=[Phase.explicit, Phase.generate]
)


class TestLives(Lives.TestCase):
    settings = briefly


@pytest.mark.slow
class TestManyLives(Lives.TestCase):
    settings = settings(briefly, max_examples=150)
