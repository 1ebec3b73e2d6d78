"""What can go wrong, as one tree. It knows no HTTP: `app.schemas` maps each `code` to a status.

CovidXrayError
├── InputError                    the sender can mend it
│   ├── MalformedRequest          malformed-request
│   ├── NotAcceptable             not-acceptable              no answer of a type that is asked for
│   ├── Unauthorized              unauthorized
│   ├── PayloadTooLarge           payload-too-large
│   ├── UploadStalled             upload-stalled
│   ├── UnsupportedEncoding       unsupported-encoding        compressed in a way that is not read
│   ├── FileNotRead               file-not-read               a file's bytes cannot be had
│   ├── FileEndsWorker            file-ends-worker            a crash, or no memory, each time
│   ├── UnsupportedImageType      unsupported-image-type      not a type of file that is read
│   ├── UnreadableImage           unreadable-image            the right type, but broken
│   ├── UnsupportedImage          unsupported-image           intact, but not what the service reads
│   │   └── UnsupportedSyntax     unsupported-image           a DICOM transfer syntax
│   ├── OtherStudy                other-study                 an instance of another study
│   └── NotAChestRadiograph       not-a-chest-radiograph
├── ReleaseError                  the operator can mend it
│   ├── ReleaseNotFound           release-not-found
│   ├── CardNotFound              card-not-found
│   └── ReleaseInvalid            release-invalid
├── AccessError                   the operator can mend it
│   ├── KeysInvalid               keys-invalid
│   ├── CredentialsInvalid        credentials-invalid         for a DICOMweb server
│   └── AnonymousAccess           anonymous-access            open to a network, without keys
├── EngineError
│   ├── EngineUnavailable         engine-unavailable          not installed, or not in a precision
│   └── InferenceFailed           inference-failed
├── ClientUnavailable             client-unavailable          no service elsewhere can be asked
├── DicomWebError                 a DICOMweb server did not do what it was asked
│   ├── DicomWebUnavailable       dicomweb-unavailable        it may do it later
│   └── DicomWebRefused           dicomweb-refused            it never will
├── BulkError                     the operator can mend it
│   ├── BulkUnavailable           bulk-unavailable            not by what is installed or running
│   ├── BulkInputInvalid          bulk-input-invalid          nothing to read, or no list of it
│   └── BulkOutputTaken           bulk-output-taken           the folder is another run's
├── TracingUnavailable            tracing-unavailable         asked for, but not to be had
├── AddressUnavailable            address-unavailable         nobody can listen there
└── CapacityError                 time mends it
    ├── NotReady                  not-ready
    ├── Overloaded                overloaded                  carries `retry_after_s`
    │   └── OutboxFull            outbox-full                 of results that wait to be sent
    └── DeadlinePassed            deadline-passed
"""

from collections.abc import Sequence
from typing import ClassVar


class CovidXrayError(Exception):
    """Root of the tree.

    Args:
        expected: What would have been right, in words for the person who has to mend it.
        received: What came instead. Never pixels, header values or patient data.
    """

    code: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"

    def __init__(self, expected: str, received: str) -> None:
        super().__init__(f"Expected {expected}; received {received}.")
        self.expected = expected
        self.received = received


class InputError(CovidXrayError):
    """The request or its image cannot be used as it is."""


class MalformedRequest(InputError):
    """The request is not of the form that the call takes."""

    code = "malformed-request"
    title = "The request is malformed"


class NotAcceptable(InputError):
    """The answer cannot be given in a media type that the client takes."""

    code = "not-acceptable"
    title = "The answer cannot be given in this media type"


class Unauthorized(InputError):
    """The request carries no API key, or one that is not accepted."""

    code = "unauthorized"
    title = "An API key is needed"


class PayloadTooLarge(InputError):
    """The upload has more bytes than the service takes."""

    code = "payload-too-large"
    title = "The upload is too large"


class UploadStalled(InputError):
    """The upload stopped to arrive."""

    code = "upload-stalled"
    title = "The upload stopped to arrive"


class FileNotRead(InputError):
    """A file was named whose bytes cannot be had."""

    code = "file-not-read"
    title = "The file cannot be read"


class FileEndsWorker(InputError):
    """The process that scored a file came to its end, again and again."""

    code = "file-ends-worker"
    title = "The file ends the process that scores it"


class UnsupportedEncoding(InputError):
    """The body is compressed in a way that is not read.

    Args:
        read: Ways that are; `identity` is none.
    """

    code = "unsupported-encoding"
    title = "The body is compressed in a way that is not read"

    def __init__(
        self, expected: str, received: str, *, read: Sequence[str] = ("identity",)
    ) -> None:
        super().__init__(expected, received)
        self.read = read


class UnsupportedImageType(InputError):
    """The bytes are not of an image type that is read."""

    code = "unsupported-image-type"
    title = "The file is of a type that is not read"


class UnreadableImage(InputError):
    """The file is of a type that is read, but it is truncated or corrupt."""

    code = "unreadable-image"
    title = "The image cannot be read"


class UnsupportedImage(InputError):
    """The file is intact, but of a kind that the service does not read."""

    code = "unsupported-image"
    title = "The image is of a kind that is not supported"


class UnsupportedSyntax(UnsupportedImage):
    """The file is in a DICOM transfer syntax that the service does not read."""


class OtherStudy(InputError):
    """The DICOM instance belongs to another study than the request is about."""

    code = "other-study"
    title = "The instance belongs to another study"


class NotAChestRadiograph(InputError):
    """The image does not look like a frontal chest X-ray, or its DICOM header says it is none."""

    code = "not-a-chest-radiograph"
    title = "The image is not a frontal chest X-ray"


class ReleaseError(CovidXrayError):
    """A release cannot be served."""


class ReleaseNotFound(ReleaseError):
    """There is no release where one was looked for."""

    code = "release-not-found"
    title = "There is no such release"


class CardNotFound(ReleaseError):
    """A release has no model card."""

    code = "card-not-found"
    title = "The release has no model card"


class ReleaseInvalid(ReleaseError):
    """A release's files, manifest or answers are not what they must be."""

    code = "release-invalid"
    title = "The release is invalid"


class AccessError(CovidXrayError):
    """The service cannot tell who may ask."""


class KeysInvalid(AccessError):
    """The file of API keys is not what it must be."""

    code = "keys-invalid"
    title = "The API keys are invalid"


class CredentialsInvalid(AccessError):
    """The file with the password or token for a DICOMweb server is not what it must be."""

    code = "credentials-invalid"
    title = "The credentials are invalid"


class AnonymousAccess(AccessError):
    """The service would be open to a network, and nobody said that it should."""

    code = "anonymous-access"
    title = "Everybody could ask"


class EngineError(CovidXrayError):
    """Inference is not possible."""


class EngineUnavailable(EngineError):
    """The engine is not installed, or the precision not computed here or not passed."""

    code = "engine-unavailable"
    title = "The engine is not available"


class InferenceFailed(EngineError):
    """The engine failed on an image, or answered with something that cannot be an answer."""

    code = "inference-failed"
    title = "Inference failed"


class ClientUnavailable(CovidXrayError):
    """A service elsewhere is to be asked, but it cannot be, or not by what is installed."""

    code = "client-unavailable"
    title = "The service elsewhere cannot be asked"


class DicomWebError(CovidXrayError):
    """A DICOMweb server did not do what it was asked."""


class DicomWebUnavailable(DicomWebError):
    """It does not answer, or not now; the same request may succeed later."""

    code = "dicomweb-unavailable"
    title = "The DICOMweb server is not available"


class DicomWebRefused(DicomWebError):
    """It answered that it will not, and to ask again would not help."""

    code = "dicomweb-refused"
    title = "The DICOMweb server refuses"


class BulkError(CovidXrayError):
    """A bulk run cannot begin, or not go on."""


class BulkUnavailable(BulkError):
    """What a bulk run needs is not installed, or does not run."""

    code = "bulk-unavailable"
    title = "Bulk scoring is not available"


class BulkInputInvalid(BulkError):
    """There is nothing to read where it was looked for, or no list of it."""

    code = "bulk-input-invalid"
    title = "The input of a bulk run is invalid"


class BulkOutputTaken(BulkError):
    """The folder holds the results of another run."""

    code = "bulk-output-taken"
    title = "The folder is taken"


class TracingUnavailable(CovidXrayError):
    """Spans are to be sent, but not in this way or not by what is installed."""

    code = "tracing-unavailable"
    title = "Tracing is not available"


class AddressUnavailable(CovidXrayError):
    """The service cannot listen at the address and port that it is given."""

    code = "address-unavailable"
    title = "The address is not available"


class CapacityError(CovidXrayError):
    """The service cannot answer now; the same request may succeed later."""


class NotReady(CapacityError):
    """No release is loaded and warm, or the service is stopping."""

    code = "not-ready"
    title = "The service is not ready"


class Overloaded(CapacityError):
    """The queue is full.

    Args:
        retry_after_s: Seconds after which a place should be free, from measured service time.
    """

    code = "overloaded"
    title = "The service is overloaded"

    def __init__(self, expected: str, received: str, *, retry_after_s: float) -> None:
        super().__init__(expected, received)
        self.retry_after_s = retry_after_s


class OutboxFull(Overloaded):
    """As many results wait for the DICOMweb server as are kept."""

    code = "outbox-full"
    title = "Too many results wait for the DICOMweb server"


class DeadlinePassed(CapacityError):
    """The request's deadline passed before its answer was ready."""

    code = "deadline-passed"
    title = "The deadline has passed"
