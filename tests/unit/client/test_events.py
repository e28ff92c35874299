"""The event recorder against the real API server."""

import asyncio
from collections.abc import Awaitable, Callable

from netsim.apiserver.core import ApiServer
from netsim.client.api import Api
from netsim.client.events import COMBINED_PREFIX, EventRecorder
from netsim.model.config import ClusterConfig
from netsim.model.kinds import CONFIG_MAP, EVENT
from netsim.model.objects import Object, uid_of
from netsim.store.store import Store
from tests.fake_clock import FakeClock

Body = Callable[[EventRecorder, Api, Object, FakeClock], Awaitable[None]]


def run(body: Body) -> None:
    async def main() -> None:
        clock = FakeClock()
        api = Api(ApiServer(Store(), ClusterConfig(), clock).transport())
        metadata = {"name": "subject", "namespace": "default"}
        subject = await api.create(CONFIG_MAP, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
        recorder = EventRecorder(api, "tester", host="node-1", clock=clock)
        task = asyncio.create_task(recorder.run())
        async with asyncio.timeout(5):
            await body(recorder, api, subject, clock)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


def test_an_event_names_its_object_and_source() -> None:
    async def body(recorder: EventRecorder, api: Api, subject: Object, clock: FakeClock) -> None:
        recorder.event(subject, "Warning", "Broken", "it broke")
        await clock.advance(0.1)
        (event,) = (await api.list(EVENT)).items
        involved = event["involvedObject"]
        assert (involved["kind"], involved["name"], involved["uid"]) == ("ConfigMap", "subject", uid_of(subject))
        assert (event["type"], event["reason"], event["message"]) == ("Warning", "Broken", "it broke")
        assert event["source"] == {"component": "tester", "host": "node-1"}
        assert (event["count"], event["firstTimestamp"]) == (1, "2024-01-01T00:00:00Z")

    run(body)


def test_repeats_are_counted_in_few_writes() -> None:
    async def body(recorder: EventRecorder, api: Api, subject: Object, clock: FakeClock) -> None:
        for _ in range(50):
            recorder.event(subject, "Warning", "Broken", "it broke")
            await clock.advance(0.05)
        await clock.advance(1)
        (event,) = (await api.list(EVENT)).items
        assert event["count"] == 50
        assert event["lastTimestamp"] > event["firstTimestamp"]
        assert int(event["metadata"]["resourceVersion"]) - int(subject["metadata"]["resourceVersion"]) < 20

    run(body)


def test_many_similar_events_are_combined() -> None:
    async def body(recorder: EventRecorder, api: Api, subject: Object, clock: FakeClock) -> None:
        for number in range(100):
            recorder.event(subject, "Normal", "Created", f"Created pod: web-{number}")
        await clock.advance(1)
        events = (await api.list(EVENT)).items
        assert len(events) == 11
        (combined,) = [event for event in events if event["message"].startswith(COMBINED_PREFIX)]
        assert combined["count"] == 90
        assert combined["message"].endswith("web-99")

    run(body)


def test_an_event_the_api_refuses_does_not_stop_the_recorder() -> None:
    async def body(recorder: EventRecorder, api: Api, subject: Object, clock: FakeClock) -> None:
        stranger = {**subject, "metadata": {**subject["metadata"], "namespace": "absent", "uid": "else"}}
        recorder.event(stranger, "Normal", "Lost", "nowhere to go")
        recorder.event(subject, "Normal", "Fine", "still here")
        await clock.advance(1)
        assert [event["reason"] for event in (await api.list(EVENT)).items] == ["Fine"]

    run(body)
