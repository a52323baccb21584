"""A stand-in for the kubelet: a real grpcio server on a unix socket that speaks the pod-resources API.

grpcio and protobuf are asked for as the first test needs them, so that this package imports without them.
"""

from __future__ import annotations

from podresources.api import Api, load, require
from podresources.kubelet import Kubelet, raw_server, record, socket_folder

__all__ = ["Api", "Kubelet", "load", "raw_server", "record", "require", "socket_folder"]
