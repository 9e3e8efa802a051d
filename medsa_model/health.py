"""Flower's gRPC health service: probed by `status` and `check`, and by orchestrators."""

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub


def probe(address: str, seconds: float = 3.0) -> str:
    """ "serving", or what is wrong, of the health service at `host:port`."""
    with grpc.insecure_channel(address) as channel:
        try:
            answer = HealthStub(channel).Check(HealthCheckRequest(), timeout=seconds)
        except grpc.RpcError as error:
            return f"does not answer ({error.code().name.lower()})"
    return str(HealthCheckResponse.ServingStatus.Name(answer.status)).lower()
