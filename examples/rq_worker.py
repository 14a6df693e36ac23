"""An RQ worker that holds credits for a job before it starts, so that a queue full of jobs cannot
overspend an account.

    pip install "usageledger[gate]" rq
    export USAGELEDGER_KAFKA=… USAGELEDGER_REDIS_URL=…          # as `usageledger up` prints them
    rq worker videos --url "$USAGELEDGER_REDIS_URL" --path .     # in this directory

An app queues jobs under the generation's own id::

    videos = Queue("videos", connection=Redis.from_url(os.environ["USAGELEDGER_REDIS_URL"]))
    videos.enqueue("rq_worker.render", "acct_4821", "gen_01J9", job_id="gen_01J9")

RQ may run a job twice (a worker that dies, a retry): under one id it is held once and charged once.
"""

from __future__ import annotations

import os
from functools import lru_cache

from usageledger import NotEnoughCredits, UsageGate, UsageMeter

FEATURE, MODEL = "genai_video", "veo_3"


@lru_cache
def gate() -> UsageGate:
    """Asks Redis directly, which takes well under a millisecond.

    If nobody answers, jobs run: what they use is charged all the same.
    """
    return UsageGate(
        kafka=os.environ["USAGELEDGER_KAFKA"],
        redis_url=os.environ["USAGELEDGER_REDIS_URL"],
        prefix=os.environ.get("USAGELEDGER_PREFIX", ""),
        on_unavailable="allow",
    )


def render(account: str, id: str, prompt: str = "") -> str:
    """Generate one video, if the account's credits suffice beside the holds of its other jobs.

    Each job has a meter of its own and closes it, which waits for Kafka. RQ runs a job in a fork
    that ends at once when the job is done. Without the close, the recorded event would stay on the
    disk until another process finds it.
    """
    try:
        with (
            UsageMeter(source="render") as meter,
            gate().held(account, id=id, feature=FEATURE, model=MODEL) as hold,
        ):
            video = generate(prompt)
            meter.record(account=account, id=id, feature=FEATURE, model=MODEL, hold_id=hold.id)
            return video
    except NotEnoughCredits as error:
        # Not an error of the job's: trying again would not help before the account has credits.
        return f"not started: {error.answer.reason}"


def generate(prompt: str) -> str:
    """Stands for the model."""
    return f"video of {prompt or 'nothing in particular'}"
