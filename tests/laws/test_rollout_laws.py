"""Rollouts: whatever happens on the way, they end, and never leave their limits.

The plans are run against the smallest honest model of what surrounds them: ReplicaSets that make and delete pods at
once, in upstream's order, and pods that become ready or die as the test says.
"""

import asyncio
from itertools import count
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from netsim.controllers.plan_replicas import plan_replicas, plan_status
from netsim.controllers.plan_rollout import (
    Scale,
    find_new_set,
    is_scaling,
    plan_new_set,
    plan_recreate,
    plan_rolling,
    plan_scale,
    plan_scaled_set,
    replicas_of,
    rolling_limits,
    strategy_of,
)
from netsim.model.kinds import DEPLOYMENT
from netsim.model.objects import Object, is_pod_ready, name_of
from tests.control_plane import ControlPlane, make_workload_spec


class Model:
    """A Deployment, its ReplicaSets and their pods."""

    def __init__(self, replicas: int, surge: Any, unavailable: Any, strategy: str = "RollingUpdate") -> None:
        spec = make_workload_spec(replicas)
        spec["strategy"] = {"type": strategy}
        if strategy == "RollingUpdate":
            spec["strategy"]["rollingUpdate"] = {"maxSurge": surge, "maxUnavailable": unavailable}
        self.deployment: Object = {"metadata": {"name": "web", "namespace": "default", "uid": "d"}, "spec": spec}
        self.sets: list[Object] = []
        self.pods: dict[str, list[Object]] = {}
        self._sequence = count()

    def set_template(self, image: str) -> None:
        template = make_workload_spec(1, image=image)["template"]
        self.deployment = {**self.deployment, "spec": {**self.deployment["spec"], "template": template}}

    def set_replicas(self, replicas: int) -> None:
        self.deployment = {**self.deployment, "spec": {**self.deployment["spec"], "replicas": replicas}}

    def step(self) -> bool:
        """One reconcile of the Deployment and of each ReplicaSet; returns whether anything was to be done."""
        new = find_new_set(self.deployment, self.sets)
        old = [rs for rs in self.sets if rs is not new]
        if new is None:
            new = plan_new_set(self.deployment, old)
            new["metadata"].update(uid=name_of(new), creationTimestamp=f"{next(self._sequence):06}")
            if strategy_of(self.deployment) == "Recreate":
                new["spec"]["replicas"] = 0
            self.sets.append(new)
            self.pods[name_of(new)] = []
        if is_scaling(self.deployment, self.sets):
            scales = plan_scale(self.deployment, new, old)
        elif strategy_of(self.deployment) == "Recreate":
            scales = plan_recreate(self.deployment, new, old, any(self.pods[name_of(rs)] for rs in old))
        else:
            scales = plan_rolling(self.deployment, new, old)
        if not scales:
            scales = [Scale(new, replicas_of(new))]
        changed = self._apply(scales)
        return self.sync() or changed

    def _apply(self, scales: list[Scale]) -> bool:
        changed = False
        for scale in scales:
            wanted = plan_scaled_set(self.deployment, scale)
            if wanted is not None:
                self.sets = [wanted if name_of(rs) == name_of(wanted) else rs for rs in self.sets]
                changed = True
        return changed

    def sync(self) -> bool:
        changed = False
        for index, rs in enumerate(self.sets):
            pods = self.pods[name_of(rs)]
            plan = plan_replicas(rs, pods)
            for pod in plan.delete:
                pods.remove(pod)
            pods += [self._make_pod() for _ in range(plan.create)]
            status, _ = plan_status(rs, pods, 0.0, None, "")
            changed = changed or bool(plan.create or plan.delete) or status != rs.get("status")
            self.sets[index] = {**rs, "status": status}
        return changed

    def _make_pod(self) -> Object:
        name = f"pod-{next(self._sequence):06}"
        metadata = {"name": name, "namespace": "default", "uid": name, "creationTimestamp": name, "labels": {}}
        return {"metadata": metadata, "spec": {"nodeName": "a"}, "status": {"phase": "Pending"}}

    @property
    def all_pods(self) -> list[Object]:
        return [pod for pods in self.pods.values() for pod in pods]

    @property
    def available(self) -> int:
        return sum(is_pod_ready(pod) for pod in self.all_pods)

    def ready_one(self, which: int) -> None:
        waiting = [pod for pod in self.all_pods if not is_pod_ready(pod)]
        if waiting:
            pod = waiting[which % len(waiting)]
            pod["status"] = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        self.sync()

    def kill_one(self, which: int) -> None:
        everything = self.all_pods
        if everything:
            victim = everything[which % len(everything)]
            for pods in self.pods.values():
                if victim in pods:
                    pods.remove(victim)
        self.sync()

    def finish(self) -> None:
        """Let every pod become ready and reconcile until nothing is left to do."""
        for _ in range(500):
            while any(not is_pod_ready(pod) for pod in self.all_pods):
                self.ready_one(0)
            if not self.step():
                return
        raise AssertionError("the rollout does not end")


amounts = st.one_of(st.integers(0, 4), st.sampled_from(["0%", "10%", "25%", "50%", "100%"]))
strategies = st.sampled_from(["RollingUpdate", "Recreate"])
which = st.integers(0, 20)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("step"), which),
        st.tuples(st.just("ready"), which),
        st.tuples(st.just("kill"), which),
        st.tuples(st.just("image"), st.integers(0, 2)),
        st.tuples(st.just("scale"), st.integers(0, 12)),
    ),
    max_size=40,
)


def act(model: Model, action: str, argument: int) -> None:
    if action == "step":
        model.step()
    elif action == "ready":
        model.ready_one(argument)
    elif action == "kill":
        model.kill_one(argument)
    elif action == "image":
        model.set_template(f"image-{argument}")
    else:
        model.set_replicas(argument)


@given(st.integers(0, 10), amounts, amounts, strategies, actions)
def test_it_ends_with_as_many_pods_of_the_last_template_as_asked_for(
    replicas: int, surge: Any, unavailable: Any, strategy: str, done: list[tuple[str, int]]
) -> None:
    model = Model(replicas, surge, unavailable, strategy)
    for action, argument in done:
        act(model, action, argument)
    model.finish()
    new = find_new_set(model.deployment, model.sets)
    assert new is not None
    assert len(model.pods[name_of(new)]) == replicas_of(model.deployment) == len(model.all_pods)


@given(st.integers(0, 10), amounts, amounts, actions)
def test_a_rollout_stays_within_surge_and_availability(
    replicas: int, surge: Any, unavailable: Any, done: list[tuple[str, int]]
) -> None:
    model = Model(replicas, surge, unavailable)
    model.finish()
    max_surge, max_unavailable = rolling_limits(model.deployment)
    least = replicas - max_unavailable
    for action, argument in done:
        if action == "scale":
            continue  # resizing has limits of its own
        before = model.available
        act(model, action, argument)
        assert len(model.all_pods) <= replicas + max_surge
        if action != "kill":
            assert model.available >= min(before, least)


@given(st.integers(1, 10), st.integers(0, 12), st.integers(0, 10))
def test_recreate_never_mixes_templates(replicas: int, scaled: int, steps: int) -> None:
    model = Model(replicas, 0, 0, "Recreate")
    model.finish()
    model.set_template("other")
    model.set_replicas(scaled)
    for _ in range(steps):
        model.step()
        assert sum(1 for pods in model.pods.values() if pods) <= 1


@settings(max_examples=20)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("scale"), st.integers(0, 12)),
            st.tuples(st.just("kill"), which),
            st.tuples(st.just("image"), st.integers(0, 2)),
            st.tuples(st.just("ready"), which),
            st.tuples(st.just("yield"), st.integers(0, 10)),
        ),
        max_size=12,
    )
)
def test_the_control_loops_converge_whatever_was_done(done: list[tuple[str, int]]) -> None:
    """The same through the API server and the caches, where writes and news cross each other."""

    async def scenario(world: ControlPlane) -> None:
        await world.add_node("a")
        await world.create(DEPLOYMENT, "web", make_workload_spec(3, image="image-0"))
        for action, argument in done:
            pods = await world.pods()
            if action == "yield":
                for _ in range(argument):
                    await asyncio.sleep(0)
            elif action == "scale":
                await world.api.patch(DEPLOYMENT, "web", {"spec": {"replicas": argument}}, "default")
            elif action == "image":
                path = "/spec/template/spec/containers/0/image"
                patch = [{"op": "replace", "path": path, "value": f"image-{argument}"}]
                await world.api.patch(DEPLOYMENT, "web", patch, "default", patch_type="json")
            elif pods:
                pod = pods[argument % len(pods)]
                await (world.remove(pod) if action == "kill" else world.make_running(pod))
        await world.make_all_running()
        deployment = await world.api.get(DEPLOYMENT, "web", "default")
        image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
        images = [pod["spec"]["containers"][0]["image"] for pod in await world.pods()]
        assert images == [image] * deployment["spec"]["replicas"]

    asyncio.run(ControlPlane().run(scenario))
