"""All errors that a caller of Otoscope can receive, as one tree.

    OtoscopeError
    ├── AudioError                  the sound; detected by the gateway's probe or the worker's decoder
    │   ├── AudioEmpty              audio_empty
    │   ├── NotAudio                not_audio
    │   ├── AudioUnsupported        audio_unsupported
    │   ├── AudioTruncated          audio_truncated
    │   ├── AudioCorrupt            audio_corrupt
    │   ├── AudioTooShort           audio_too_short
    │   ├── AudioTooLong            audio_too_long
    │   ├── AudioChannels           audio_channels
    │   ├── AudioRate               audio_rate
    │   └── AudioNotFinite          audio_not_finite
    ├── RequestError                the request
    │   ├── KeyRequired             key_required
    │   ├── KeyRefused              key_refused
    │   ├── HostRefused             host_refused
    │   ├── InvalidRequest          invalid_request
    │   ├── InvalidBase64           invalid_base64
    │   ├── UnsupportedMediaType    unsupported_media_type
    │   ├── UrlNotAllowed           url_not_allowed
    │   ├── UrlUnreachable          url_unreachable
    │   ├── NotAcceptable           not_acceptable
    │   ├── PayloadTooLarge         payload_too_large
    │   ├── RouteNotFound           not_found
    │   ├── MethodNotAllowed        method_not_allowed
    │   ├── ModelNotFound           model_not_found
    │   ├── JobNotFound             job_not_found
    │   ├── JobExpired              job_expired
    │   ├── BatchNotFound           batch_not_found
    │   ├── ResultNotReady          result_not_ready
    │   ├── PartNotFound            part_not_found
    │   ├── IdempotencyConflict     idempotency_conflict
    │   └── RequestTimeout          request_timeout
    ├── Busy                        retry later
    │   ├── RateLimited             rate_limited
    │   ├── TooManyConnections      too_many_connections
    │   ├── QueueFull               queue_full
    │   ├── NotReady                not_ready
    │   ├── ContractMismatch        contract_mismatch
    │   └── StoreUnavailable        store_unavailable
    └── JobFailure                  an accepted job that failed
        ├── DecoderDied             decoder_died
        ├── InferenceFailed         inference_failed
        ├── DeadlineExceeded        deadline_exceeded
        ├── JobPoison               poison
        ├── JobCancelled            cancelled
        └── InternalError           internal_error

Programs match on the code, which never changes; the message is for people: what was found and what is accepted. The
gateway maps codes to HTTP statuses in `api.http.problems`.
"""

from typing import Any, ClassVar, Literal


class OtoscopeError(Exception):
    """Base class. `code` is stable, `title` is a short form for people, `detail` is the message."""

    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, *, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after  # seconds, if a retry can succeed

    def __reduce__(self) -> "tuple[type[OtoscopeError], tuple[str], dict[str, Any]]":
        return type(self), (self.detail,), vars(self)


class AudioError(OtoscopeError):
    """The sound cannot be used. `found` is the message without the list of what is accepted, its last sentence."""

    def __init__(self, detail: str, *, accepted: str = "", retry_after: int | None = None) -> None:
        super().__init__(f"{detail} Accepted: {accepted}." if accepted else detail, retry_after=retry_after)
        self.found = detail


class AudioEmpty(AudioError):
    code, title = "audio_empty", "No audio"


class NotAudio(AudioError):
    code, title = "not_audio", "Not a sound file"


class AudioUnsupported(AudioError):
    code, title = "audio_unsupported", "Unsupported audio format"


class AudioTruncated(AudioError):
    code, title = "audio_truncated", "Truncated audio"


class AudioCorrupt(AudioError):
    code, title = "audio_corrupt", "Corrupt audio"


class AudioTooShort(AudioError):
    code, title = "audio_too_short", "Audio too short"


class AudioTooLong(AudioError):
    code, title = "audio_too_long", "Audio too long"


class AudioChannels(AudioError):
    code, title = "audio_channels", "Unsupported channel count"


class AudioRate(AudioError):
    code, title = "audio_rate", "Unsupported sample rate"


class AudioNotFinite(AudioError):
    code, title = "audio_not_finite", "Audio has NaN or infinite samples"


class RequestError(OtoscopeError):
    """The request cannot be served in this form."""


class KeyRequired(RequestError):
    code, title = "key_required", "Key required"


class KeyRefused(RequestError):
    code, title = "key_refused", "The key does not allow this"


class HostRefused(RequestError):
    code, title = "host_refused", "Unknown host name"


class InvalidRequest(RequestError):
    code, title = "invalid_request", "Invalid request"


class InvalidBase64(RequestError):
    code, title = "invalid_base64", "Invalid base64"


class UnsupportedMediaType(RequestError):
    code, title = "unsupported_media_type", "Unsupported media type"


class UrlNotAllowed(RequestError):
    code, title = "url_not_allowed", "Address not allowed"


class UrlUnreachable(RequestError):
    code, title = "url_unreachable", "Address not readable"


class NotAcceptable(RequestError):
    code, title = "not_acceptable", "No acceptable representation"


class PayloadTooLarge(RequestError):
    code, title = "payload_too_large", "Upload too large"


class RouteNotFound(RequestError):
    code, title = "not_found", "Not found"


class MethodNotAllowed(RequestError):
    code, title = "method_not_allowed", "Method not allowed"


class ModelNotFound(RequestError):
    code, title = "model_not_found", "No such model"


class JobNotFound(RequestError):
    code, title = "job_not_found", "No such job"


class JobExpired(RequestError):
    code, title = "job_expired", "Job expired"


class BatchNotFound(RequestError):
    code, title = "batch_not_found", "No such batch"


class ResultNotReady(RequestError):
    code, title = "result_not_ready", "No result yet"


class PartNotFound(RequestError):
    code, title = "part_not_found", "Not in this result"


class IdempotencyConflict(RequestError):
    code, title = "idempotency_conflict", "Idempotency key reused"


class RequestTimeout(RequestError):
    code, title = "request_timeout", "Upload too slow"


class Busy(OtoscopeError):
    """The request is valid; retry it after `retry_after` seconds."""


class RateLimited(Busy):
    """The caller is beyond its own rate or its share, whatever the load of the service."""

    code, title = "rate_limited", "Too many requests"


class TooManyConnections(Busy):
    code, title = "too_many_connections", "Too many connections"


class QueueFull(Busy):
    code, title = "queue_full", "Queue full"


class NotReady(Busy):
    code, title = "not_ready", "No worker is ready"


class ContractMismatch(Busy):
    """Data of an incompatible contract version, as during an upgrade over several versions."""

    code, title = "contract_mismatch", "Incompatible versions"


class StoreUnavailable(Busy):
    code, title = "store_unavailable", "Queue unreachable"


class JobFailure(OtoscopeError):
    """An accepted job ended without a result."""


class DecoderDied(JobFailure):
    code, title = "decoder_died", "The decoder crashed on this file"


class InferenceFailed(JobFailure):
    code, title = "inference_failed", "The model failed on this sound"


class DeadlineExceeded(JobFailure):
    code, title = "deadline_exceeded", "Deadline exceeded"


class JobPoison(JobFailure):
    code, title = "poison", "The job repeatedly crashed its worker"


class JobCancelled(JobFailure):
    code, title = "cancelled", "Cancelled"


class InternalError(JobFailure):
    code, title = "internal_error", "Internal error"


def _leaves(root: type[OtoscopeError]) -> "list[type[OtoscopeError]]":
    below = root.__subclasses__()
    return [root] if not below else [leaf for child in below for leaf in _leaves(child)]


BY_CODE: dict[str, type[OtoscopeError]] = {leaf.code: leaf for leaf in _leaves(OtoscopeError)}
"""Code to class, to raise an error that was read from a job record or a problem document."""

SERVICE_FAULTS = frozenset(
    kind.code
    for kind in (
        *(TooManyConnections, QueueFull, NotReady, ContractMismatch, StoreUnavailable),
        *(InferenceFailed, DeadlineExceeded, JobPoison, InternalError),
    )
)
"""Codes of errors whose cause is the service or its load. All others are faults of the request, of the sound (a decoder
that crashed did so twice on the same file), or what the caller decided."""


def fault_of(code: str) -> Literal["service", "caller"]:
    """Whose fault an error is: the label `fault` of metrics. Failed jobs that are faults of the service count against
    its service level objective."""
    return "service" if code in SERVICE_FAULTS else "caller"


def cause(error: Exception) -> str:
    """Why something failed, for a message that names the file itself: of an error of the system its reason alone,
    without number and file; of any other error its text."""
    return str(getattr(error, "strerror", None) or error)
