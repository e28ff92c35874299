"""The indexes that controllers put on shared informers, by one name each."""

from collections.abc import Iterable

from netsim.client.informer import Informer
from netsim.model.objects import Object, controller_of, namespace_of

BY_NAMESPACE = "namespace"
BY_CONTROLLER = "controller"  # uid of the controlling owner
ORPHANS = "orphans"  # namespace of objects without a controlling owner


def _namespace(obj: Object) -> Iterable[str]:
    return (namespace_of(obj),)


def _controller(obj: Object) -> Iterable[str]:
    reference = controller_of(obj)
    return (reference["uid"],) if reference is not None else ()


def _orphan(obj: Object) -> Iterable[str]:
    return (namespace_of(obj),) if controller_of(obj) is None else ()


def index_by_namespace(informer: Informer) -> None:
    informer.add_index(BY_NAMESPACE, _namespace)


def index_by_controller(informer: Informer) -> None:
    informer.add_index(BY_CONTROLLER, _controller)
    informer.add_index(ORPHANS, _orphan)
