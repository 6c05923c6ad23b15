"""The path of a request: what happens before its handler and after it, the same for every route."""

import json
from contextlib import nullcontext, suppress
from functools import partial
from inspect import signature

from bottle import request

from models import Ban, ClosedRoom
from service import options, wechat
from service.database import Refused, apply, leave_loop
from service.fields import parse_int, read_fields
from service.login import Anyone, Token
from service.memory import Memory
from service.moderation import Report
from service.text import BLANKS, WITHOUT_INVISIBLE

BODY_AT_MOST = 64 * 1024  # bytes


class Endpoint:
    """A plugin of Bottle, which makes one for each route.

    The parameters of a handler are the fields that it takes; a default makes one optional. One
    named `caller` gets who calls. What else is special, the route says:

    - `anonymous`: it does not matter who calls
    - `by`: the field with the openid that acts
    - `changes`: True where the handler is one change, "in steps" where it makes several itself
    - `rate`: how often one person may do this
    - `texts`: the fields that others will see, which WeChat checks first, with its `scene`; or a
      function from the fields to such texts by name
    - `errors`: those of the handler; the others follow from what stands above
    """

    @classmethod
    def apply(cls, handler, route):
        """Wrap the handler; Bottle calls this at the first request to the route."""
        return cls(handler, route).answer

    def __init__(self, handler, route):
        config = route.config
        self.handler = handler
        self.url = route.rule
        self.has_body = route.method == "POST"
        self.is_anonymous = "anonymous" in config
        self.by = config.get("by")
        self.changes = "changes" in config
        self.is_in_steps = config.get("changes") == "in steps"
        self.rate = config.get("rate")
        self.texts = config.get("texts")
        self.scene = config.get("scene")
        self.own_errors = config.get("errors", "")
        parameters = signature(handler).parameters
        self.fields = {name: parameters[name].default for name in parameters if name != "caller"}
        self.takes_caller = "caller" in parameters
        if self.changes and not self.is_in_steps:
            self.fields["request_id"] = None

    def errors(self):
        """The errors of its own, and those that follow from the steps of the path."""
        steps = [
            (self.has_body, "invalid_json invalid_field too_large"),
            (not self.is_anonymous, "login_required"),
            (self.by, "identity_mismatch"),
            (self.changes, "banned"),
            (self.rate, "too_many_requests"),
            (self.texts, "risky_content wechat_unavailable"),
            (True, "server_error database_busy"),
            (True, self.own_errors),
        ]
        return {error for is_taken, errors in steps if is_taken for error in errors.split()}

    def answer(self):
        """Take each step in the order of the contract; returns what the handler does."""
        sent = read_object() if self.has_body else {}
        if self.is_anonymous:
            return self.handler(**read_fields(self.fields, sent))
        authorization = request.environ.get("HTTP_AUTHORIZATION", "")
        caller = self.identify(authorization)
        values = read_fields(self.fields, sent)
        request_id = values.pop("request_id", None)
        self.check_actor(caller, values)
        if not self.changes:
            return self.handle(caller, values)
        key = self.memory_key(caller, values, request_id)
        first = find_first(key)
        if first is not None:
            return first
        texts = self.find_texts(values)
        if texts or self.is_in_steps:
            leave_loop()
        with self.rate_of(caller):
            if self.is_in_steps:
                return self.handle(caller, values)
            return self.check_and_change(authorization, caller, values, key, texts)

    def handle(self, caller, values):
        return self.handler(caller, **values) if self.takes_caller else self.handler(**values)

    def identify(self, authorization):
        """Who is calling; Refused where callers are verified and the token does not say who."""
        if not options.is_verified():
            return Anyone()
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise Refused("login_required")
        return Token.caller(token.strip(), self.changes)

    def check_actor(self, caller, values):
        """Refuse an openid that is not the caller's own or, where nobody is verified, is banned."""
        if not self.by:
            return
        openid = values[self.by]
        if not caller.may_act_as(openid):
            raise Refused("identity_mismatch")
        if self.changes and not options.is_verified() and Ban.exists(openid):
            raise Refused("banned")

    def memory_key(self, caller, values, request_id):
        """Who sent what: with other values it is another request."""
        if request_id is None:
            return None
        return caller.openid or values.get(self.by, ""), self.url, request_id, values

    def find_texts(self, values):
        """The texts that WeChat has to check, by field, without those that are blank."""
        if not (self.texts and options.texts_are_checked()):
            return {}
        if callable(self.texts):
            found = self.texts(**values)
        else:
            found = {name: values[name] for name in self.texts}
        return {
            name: text
            for name, text in found.items()
            if isinstance(text, (str, list)) and content_of([text]).strip(BLANKS)
        }

    def rate_of(self, caller):
        if self.rate and options.is_verified():
            return self.rate.counting(caller.openid)
        return nullcontext()

    def check_and_change(self, authorization, caller, values, key, texts):
        """Make the change, once WeChat has checked the texts as they are then."""
        while True:
            doubtful = self.check_texts(caller, texts)
            answer = apply(partial(self.change, authorization, values, key, texts, doubtful))
            if answer is not None:
                return answer
            texts = self.find_texts(values)

    def check_texts(self, caller, texts):
        """Ask WeChat; returns what it leaves to the operator, or an empty text."""
        if not texts:
            return ""
        suggestion = self.suggestion(caller, texts.values())
        if suggestion == "risky":
            raise Refused("risky_content", field=self.find_risky(caller, texts))
        return content_of(texts.values()) if suggestion == "review" else ""

    def suggestion(self, caller, texts):
        """What WeChat suggests for texts as people see them."""
        account = wechat.account(*options.wechat_settings())
        content = content_of(texts).translate(WITHOUT_INVISIBLE)
        return account.suggestion(caller.openid, self.scene, content)

    def find_risky(self, caller, texts):
        """The field at fault; the first where none is by itself, or WeChat no longer answers."""
        with suppress(Refused):
            for name, text in texts.items():
                if self.suggestion(caller, [text]) == "risky":
                    return name
        return next(iter(texts))

    def change(self, authorization, values, key, texts, doubtful):
        """Look again at what may have changed while WeChat was asked, and call the handler.

        None where the texts are others than those that were checked. This may run in another
        thread, where Bottle's request is not that of this call.
        """
        caller = self.identify(authorization)
        self.check_actor(caller, values)
        first = find_first(key)
        if first is not None:
            return first
        if self.find_texts(values) != texts:
            return None
        answer = self.handle(caller, values) or {}
        ClosedRoom.clean_up()
        if doubtful:
            ids = {"room_id": 0, "message_id": 0, **values, **answer}
            place = {name: ids[name] for name in ("room_id", "message_id")}
            Report.add_doubtful(openid=caller.openid, text=doubtful, **place)
        if key:
            Memory.keep(answer, *key)
        return answer


def find_first(key):
    """What was answered when this was sent before, or None."""
    return key and Memory.find(*key)


def content_of(texts):
    """All of them as one text."""
    return "\n".join(" ".join(text) if isinstance(text, list) else text for text in texts)


# The body


def read_object():
    try:
        sent = decode(read_body().decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise Refused("invalid_json") from None
    if not isinstance(sent, dict):
        raise Refused("invalid_json")
    return sent


def read_body():
    if request.content_length > BODY_AT_MOST:
        raise Refused("too_large")
    # If the server has already joined the chunks, Bottle must not parse them again.
    is_joined = request.environ.get("wsgi.input_terminated")
    body = request.environ["wsgi.input"] if is_joined else request.body
    content = body.read(BODY_AT_MOST + 1)
    if len(content) > BODY_AT_MOST:
        raise Refused("too_large")
    return content


def refuse_constant(name):
    raise ValueError(f"{name} is not JSON")


decode = json.JSONDecoder(parse_int=parse_int, parse_constant=refuse_constant).decode
