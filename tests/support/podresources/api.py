"""Message classes made from api.proto at run time: no compiler, no generated file."""

from __future__ import annotations

import importlib
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

PROTO = Path(__file__).with_name("api.proto")
_MESSAGE = re.compile(r"message (\w+) \{([^}]*)\}")
_FIELD = re.compile(r"(repeated )?(\w+) (\w+) = (\d+);")
_CALL = re.compile(r"rpc (\w+)\((\w+)\) returns \((\w+)\);")


@dataclass(frozen=True)
class Api:
    """The service: ``messages`` by name, ``calls`` as name -> (request, response)."""

    grpc: Any
    messages: dict[str, Any]
    calls: dict[str, tuple[Any, Any]]

    def answer(self, *pods: Any) -> Any:
        return self.messages["ListPodResourcesResponse"](pod_resources=pods)

    def pod(self, name: str, *containers: Any, namespace: str = "lab") -> Any:
        return self.messages["PodResources"](name=name, namespace=namespace, containers=containers)

    def container(self, name: str, *claims: Any, **devices: list[str]) -> Any:
        """``gpu=[…]`` gives devices of nvidia.com/gpu. Processors and memory come with it, as on a real node."""
        memory = self.messages["ContainerMemory"](memory_type="memory", size=2**40, topology=self._topology())
        return self.messages["ContainerResources"](
            name=name,
            cpu_ids=[0, 1, 300],
            memory=[memory],
            devices=[self.devices(f"nvidia.com/{resource}", ids) for resource, ids in devices.items()],
            dynamic_resources=claims,
        )

    def devices(self, resource: str, ids: list[str]) -> Any:
        return self.messages["ContainerDevices"](resource_name=resource, device_ids=ids, topology=self._topology())

    def claim(self, *cdi: str, device: str = "", driver: str = "gpu.nvidia.com") -> Any:
        names = [self.messages["CDIDevice"](name=name) for name in cdi]
        given = self.messages["ClaimResource"](
            cdi_devices=names, driver_name=driver, pool_name="node-7", device_name=device
        )
        return self.messages["DynamicResource"](claim_name="gpus", claim_namespace="lab", claim_resources=[given])

    def _topology(self) -> Any:
        return self.messages["TopologyInfo"](nodes=[self.messages["NUMANode"](ID=1)])


def require(module: str) -> Any:
    """A module that tests need; where it is missing, they are skipped (CI: fail)."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        reason = f"{error.name} is not installed; the tests of owners.kubernetes need h2, grpcio and protobuf"
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason, allow_module_level=True)


@cache
def load() -> Api:
    """The API; where grpcio or protobuf is not installed, the test is skipped (CI: fails)."""
    grpc = require("grpc")
    descriptor = require("google.protobuf.descriptor_pb2")
    factory = require("google.protobuf.message_factory")
    pool = require("google.protobuf.descriptor_pool")
    text = PROTO.read_text("utf-8")
    field = descriptor.FieldDescriptorProto
    scalars = {"string": field.TYPE_STRING, "int64": field.TYPE_INT64, "uint64": field.TYPE_UINT64}
    file = descriptor.FileDescriptorProto(name="api.proto", package="v1", syntax="proto3")
    for name, body in _MESSAGE.findall(text):
        message = file.message_type.add(name=name)
        for repeated, kind, field_name, number in _FIELD.findall(body):
            message.field.add(
                name=field_name,
                number=int(number),
                label=field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL,
                type=scalars.get(kind, field.TYPE_MESSAGE),
                type_name=None if kind in scalars else f".v1.{kind}",
            )
    described = pool.DescriptorPool()
    described.Add(file)
    messages = {
        name: factory.GetMessageClass(described.FindMessageTypeByName(f"v1.{name}"))
        for name, _ in _MESSAGE.findall(text)
    }
    calls = {name: (messages[asked], messages[answered]) for name, asked, answered in _CALL.findall(text)}
    return Api(grpc, messages, calls)
