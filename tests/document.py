"""The interface document, as far as several tests need it."""

# Each endpoint that takes a body, with one that would be done.
BODIES = {
    "/usr/complete": {"openid": "gang", "sex": 1, "preference": ["篮球"]},
    "/usr/info": {"openid": "ming"},
    "/usr/roomlist1": {"openid": "ming"},
    "/usr/roomlist2": {"openid": "hong"},
    "/usr/join": {"room_id": 1, "openid": "gang"},
    "/room/section": {"section": "学习"},
    "/room/add": {
        "name": "桌游",
        "section": "桌游",
        "description": "",
        "room_owner_id": "gang",
    },
    "/room/kick": {"room_id": 1, "openid": "hong"},
    "/room/delete": {"room_id": 1, "openid": "ming"},
    "/room/get_message": {"room_id": 1},
    "/room/send_message": {"room_id": 1, "openid": "hong", "message": "嗨"},
    "/search": {"key": "学习"},
}
LISTS = ["/usr/roomlist1", "/usr/roomlist2", "/room/section", "/room/get_message", "/search"]
