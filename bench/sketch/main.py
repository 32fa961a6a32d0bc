"""What Tollgate replaces: the same backend as an evening's work in Python, as one would write it. It is measured beside it.

Checks the Supabase token, looks up the subscription and the usage, asks OpenAI, writes a row. Everything is in one
SQLite file. It is written well, and has the holes that such a sketch has: limits are checked before and counted after,
so requests at once overshoot them; a stream that the caller leaves is not charged; cost is a float.
"""

import os
import sqlite3
import time
from contextlib import asynccontextmanager

import jwt
from fastapi import Depends, FastAPI, Header, HTTPException
from fastapi.responses import JSONResponse, StreamingResponse
from openai import APIError, AsyncOpenAI
from pydantic import BaseModel

SUPABASE_URL = os.environ["SUPABASE_URL"]
DATABASE = os.environ.get("DATABASE", "sketch.db")
PRICES = {"gpt-4o-mini": (0.15, 0.60)}  # dollars a million tokens: input, output
PLANS = {
    "free": {"day_requests": 1_000_000, "day_tokens": 1_000_000_000, "month_cost": 10_000.0, "max_tokens": 1024},
    "pro": {"day_requests": 10_000_000, "day_tokens": 10_000_000_000, "month_cost": 100_000.0, "max_tokens": 4096},
}
SCHEMA = """
create table if not exists subscriptions (user_id text primary key, plan text not null);
create table if not exists usage_log (
    id integer primary key, user_id text not null, day text not null, model text not null,
    input_tokens integer not null, output_tokens integer not null, cost real not null, at real not null);
create index if not exists usage_of_user on usage_log (user_id, day);
"""

db = sqlite3.connect(DATABASE, isolation_level=None, check_same_thread=False)
db.executescript("pragma journal_mode = wal; pragma synchronous = full;" + SCHEMA)
# Keys of the project, fetched once and kept.
keys = jwt.PyJWKClient(f"{SUPABASE_URL}/auth/v1/.well-known/jwks.json", cache_keys=True, lifespan=3600)
openai = AsyncOpenAI(
    api_key=os.environ["OPENAI_API_KEY"],
    base_url=os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1"),
    max_retries=0,
)


@asynccontextmanager
async def lifespan(_app):
    yield
    await openai.close()
    db.close()


app = FastAPI(lifespan=lifespan)


class Message(BaseModel):
    role: str
    content: str


class Chat(BaseModel):
    messages: list[Message]
    model: str = "gpt-4o-mini"
    temperature: float | None = None
    max_tokens: int | None = None
    stream: bool = False


async def user(authorization: str = Header(default="")) -> str:
    """The user's id from a valid access token."""
    token = authorization.removeprefix("Bearer ")
    try:
        key = keys.get_signing_key_from_jwt(token)
        claims = jwt.decode(
            token, key, algorithms=["ES256"], audience="authenticated", issuer=f"{SUPABASE_URL}/auth/v1"
        )
    except jwt.PyJWTError as error:
        raise HTTPException(401, f"invalid token: {error}") from None
    return claims["sub"]


def today() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime())


def plan_of(user_id: str) -> dict:
    row = db.execute("select plan from subscriptions where user_id = ?", (user_id,)).fetchone()
    return PLANS[row[0] if row else "free"]


def usage_since(user_id: str, day: str) -> tuple:
    return db.execute(
        """select count(*), coalesce(sum(input_tokens + output_tokens), 0), coalesce(sum(cost), 0)
           from usage_log where user_id = ? and day >= ?""",
        (user_id, day),
    ).fetchone()


def check_limits(user_id: str, plan: dict) -> None:
    requests, tokens, _ = usage_since(user_id, today())
    _, _, cost = usage_since(user_id, today()[:8] + "01")
    if requests >= plan["day_requests"] or tokens >= plan["day_tokens"]:
        raise HTTPException(429, "daily limit reached")
    if cost >= plan["month_cost"]:
        raise HTTPException(402, "monthly limit reached")


def log_usage(user_id: str, model: str, usage) -> None:
    price_in, price_out = PRICES[model]
    cost = (usage.prompt_tokens * price_in + usage.completion_tokens * price_out) / 1e6
    db.execute(
        """insert into usage_log (user_id, day, model, input_tokens, output_tokens, cost, at)
           values (?, ?, ?, ?, ?, ?, ?)""",
        (user_id, today(), model, usage.prompt_tokens, usage.completion_tokens, cost, time.time()),
    )


@app.get("/")
async def alive():
    return {"status": "ok"}


@app.post("/v1/chat/completions")
@app.post("/api/chat")
async def chat(body: Chat, user_id: str = Depends(user)):
    plan = plan_of(user_id)
    check_limits(user_id, plan)
    if body.model not in PRICES:
        raise HTTPException(403, "model not allowed")
    asked = {
        "model": body.model,
        "messages": [message.model_dump() for message in body.messages],
        "max_tokens": min(body.max_tokens or plan["max_tokens"], plan["max_tokens"]),
    }
    if body.temperature is not None:
        asked["temperature"] = body.temperature
    try:
        if body.stream:
            chunks = await openai.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
            return StreamingResponse(events(chunks, user_id, body.model), media_type="text/event-stream")
        answer = await openai.chat.completions.create(**asked)
    except APIError as error:
        raise HTTPException(502, f"upstream: {error}") from None
    log_usage(user_id, body.model, answer.usage)
    return JSONResponse(answer.model_dump())


async def events(chunks, user_id: str, model: str):
    async for chunk in chunks:
        if chunk.usage:
            log_usage(user_id, model, chunk.usage)
        yield f"data: {chunk.model_dump_json()}\n\n"
    yield "data: [DONE]\n\n"
