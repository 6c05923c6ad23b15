"""Many clients at once on the same rooms."""

import json
import random
import threading
from contextlib import closing
from datetime import datetime

import pytest

CLIENTS = 20
pytestmark = pytest.mark.slow


def at_once(server, live):
    """Let each client live on a connection of its own; all that they return, or raise."""
    results, problems = [], []

    def client(number):
        def post(url, **fields):
            connection.request("POST", url, json.dumps(fields))
            response = connection.getresponse()
            answer = json.loads(response.read())
            assert response.status < 500, answer
            return answer

        try:
            with closing(server.connect()) as connection:
                results.extend(live(number, post))
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for problem in problems:
        raise problem
    return results


def test_the_last_places_of_a_room_are_given_once(start):
    server = start("--quiet")
    room_id = server.open_room()
    for number in range(490):
        server.post("/usr/join", room_id=room_id, openid=f"guest{number}")

    def join(number, post):
        answers = [
            post("/usr/join", room_id=room_id, openid=f"late{number}-{late}") for late in range(3)
        ]
        return [answer.get("error", "joined") for answer in answers]

    answers = at_once(server, join)
    assert answers.count("joined") == 9
    assert answers.count("room_full") == CLIENTS * 3 - 9
    users_id = server.post("/search", key=room_id)["rooms"][0]["users_id"]
    assert len(users_id) == len(set(users_id)) == 500


def test_600_people_at_once_fill_a_small_room_and_no_more(start):
    server = start("--quiet")
    fields = {"name": "十二人局", "section": "桌游", "description": "", "room_owner_id": "ming"}
    room_id = server.post("/room/add", **fields, capacity=12)["room_id"]

    def join(number, post):
        people = range(number, 600, CLIENTS)
        answers = [post("/usr/join", room_id=room_id, openid=f"guest{each}") for each in people]
        return [answer.get("error", "joined") for answer in answers]

    answers = at_once(server, join)
    assert answers.count("joined") == 11
    assert answers.count("room_full") == 600 - 11
    (room,) = server.post("/search", key=room_id)["rooms"]
    assert len(room["users_id"]) == 12


def test_20_equal_requests_at_once_are_done_once(start):
    server = start("--quiet")
    room_id = server.open_room()
    room = {"name": "一", "section": "桌游", "description": "", "room_owner_id": "ming"}
    message = {"room_id": room_id, "openid": "ming", "message": "嗨"}

    def send(number, post):
        return [
            (
                tuple(post("/room/send_message", **message, request_id=f"{each}").items()),
                tuple(post("/room/add", **room, request_id=f"{each}").items()),
            )
            for each in range(20)
        ]

    answers = at_once(server, send)
    assert len(answers) == CLIENTS * 20
    assert len(set(answers)) == 20, "each has one answer"
    assert len(server.post("/room/get_message", room_id=room_id)["messages"]) == 20
    assert len(server.post("/room/section", section="桌游")["rooms"]) == 20


def test_everything_at_once_leaves_everything_in_order(start):
    server = start("--quiet")
    rooms = [server.open_room() for _ in range(4)]

    def live(number, post):
        luck = random.Random(number)
        message_ids, watched = [], []
        for _ in range(40):
            place = luck.randrange(len(rooms))
            room_id = rooms[place]
            openid = f"guest{luck.randrange(8)}"
            url = luck.choice(["/usr/join", "/usr/join", "/room/kick", "/room/send_message"])
            fields = {"message": f"{number}"} if url == "/room/send_message" else {}
            if luck.random() < 0.05:
                url, openid = "/room/delete", "ming"
                rooms[place] = server.open_room()
            watched.append(server.request("GET", "/time")[1]["last_time"])
            answer = post(url, room_id=room_id, openid=openid, **fields)
            assert answer.get("error") in (None, "room_not_found", "member_not_found", "not_member")
            message_ids += [answer["message_id"]] if "message_id" in answer else []
            watched.append(server.request("GET", "/time")[1]["last_time"])
            if answer["response_code"] == 1 and url != "/usr/join":
                assert watched[-1] > watched[-2], "it moved with the change"
            seen = post("/search", key=room_id)["rooms"]
            for room in seen:
                assert room["users_id"][0] == "ming"
                assert len(set(room["users_id"])) == len(room["users_id"])
                assert room["state"] == int(len(room["users_id"]) > 1)
            if seen:
                messages = post("/room/get_message", room_id=room_id).get("messages", [])
                ids = [message["message_id"] for message in messages]
                assert ids == sorted(set(ids))
        assert message_ids == sorted(message_ids)
        assert watched == sorted(watched)
        last_times.append(watched[-1])
        return message_ids

    last_times = []
    message_ids = at_once(server, live)
    assert len(message_ids) == len(set(message_ids)), "each message has an id of its own"
    assert server.request("GET", "/time")[1]["last_time"] == max(last_times)


def test_the_time_moves_exactly_with_the_changes(start):
    server = start("--quiet")
    room_id = server.open_room()

    def send(number, post):
        sent = [
            post("/room/send_message", room_id=room_id, openid="ming", message="嗨")
            for _ in range(20)
        ]
        for _ in range(20):
            post("/usr/join", room_id=room_id, openid="ming")  # changes nothing
        return [message["message_id"] for message in sent]

    message_ids = at_once(server, send)
    assert len(set(message_ids)) == CLIENTS * 20
    last_time = server.request("GET", "/time")[1]["last_time"]
    last = datetime.fromisoformat(last_time.replace("Z", "+00:00")).timestamp() * 1000
    assert round(last) == max(message_ids)
