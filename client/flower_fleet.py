"""Requests to the coordinator, with Flower's private names for them. flwr is pinned for these.

`tests/client/test_flower_private.py` holds the contract; raise the pin only when it passes.
"""

import ssl
from base64 import b64encode
from contextlib import suppress
from datetime import UTC, datetime
from functools import wraps

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import DeactivateNodeRequest
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supercore.protobuf.client import ProtobufClient
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supernode import start_client_internal

LARGEST = 64 * 2**20  # bytes of one answer; Flower sends arrays in parts of 5 MiB


def confine() -> None:
    """Let Flower's HTTP clients of this process speak to the address that they were given alone,
    and take in no more than fits.

    Flower's own follow redirects, so that a coordinator could let a site post to any machine of
    the hospital's network, and use the proxies and the .netrc of the environment. Authorities of
    the system are those that our own client asks. Flower's SuperNode also unpacks a run's bundle
    to look for settings, which may be a zip bomb; ours are in the messages.
    """
    start_client_internal.get_fused_config_from_fab = lambda *_: {}  # type: ignore[attr-defined]
    opened = ProtobufClient.__init__

    @wraps(opened)
    def open_confined(
        self: ProtobufClient, base_url: str, *, verify: ssl.SSLContext | bool | str = True,
        timeout: float = 30.0, **more: object,
    ) -> None:  # fmt: skip
        opened(self, base_url, verify=verify, timeout=timeout, **more)  # type: ignore[arg-type]
        self._client.close()
        context = ssl.create_default_context() if verify is True else verify
        self._client = httpx.Client(
            verify=context, timeout=timeout, follow_redirects=False, trust_env=False,
            headers={"accept-encoding": "identity"}, event_hooks={"response": [_check_size]},
        )  # fmt: skip

    ProtobufClient.__init__ = open_confined  # type: ignore[method-assign]


def _check_size(response: httpx.Response) -> None:
    """Raise `httpx.RemoteProtocolError` for an answer of more than `LARGEST`, before it is read."""
    told = response.headers.get("content-length", "")
    if "content-encoding" in response.headers or not told.isdigit() or int(told) > LARGEST:
        raise httpx.RemoteProtocolError(
            f"an answer of {told or 'untold'} bytes, {response.headers.get('content-encoding', '')}"
            f" encoded; expected at most {LARGEST} as they are", request=response.request,
        )  # fmt: skip


def ask_the_door(client: httpx.Client, key: ec.EllipticCurvePrivateKey) -> httpx.Response:
    """A signed question about no run in particular: only the door's answer matters."""
    content = GetRunRequest().SerializeToString()
    return client.post("/v1/fleet/get-run", content=content, headers=signed(key))


def deactivate(client: httpx.Client, key: ec.EllipticCurvePrivateKey, node_id: int) -> None:
    """Tell the coordinator that an earlier process of this site has ended."""
    content = DeactivateNodeRequest(node_id=node_id).SerializeToString()
    with suppress(httpx.HTTPError):
        client.post("/v1/fleet/deactivate-node", content=content, headers=signed(key))


def signed(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    """The headers of a request to the Fleet API, signed now."""
    stamp = datetime.now(UTC).isoformat()
    public = public_key_to_bytes(key.public_key())
    return {
        "content-type": PROTOBUF_MEDIA_TYPE,
        "accept": PROTOBUF_MEDIA_TYPE,
        FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(public).decode(),
        TIMESTAMP_HEADER: stamp,
        FLEET_HTTP_SIGNATURE_HEADER: b64encode(sign_message(key, stamp.encode())).decode(),
    }
