"""What the API says and takes, as its documentation shows it."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from anomaly_seg.serving.api.body import FORM, IMAGE_TYPES


class Size(BaseModel):
    """Of the image as given, in pixels."""

    height: int
    width: int


class Box(BaseModel):
    """One connected defect: its bounding box from the top left, in pixels of the image as given."""

    x: int
    y: int
    width: int
    height: int
    area: int = Field(description="pixels of the defect itself")
    peak: float = Field(description="highest value of the heat map inside, 0 to 1")


class Answer(BaseModel):
    """The verdict on one image."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "verdict": "defective",
                    "score": 412.7,
                    "threshold": 100.0,
                    "image": {"height": 1269, "width": 500},
                    "regions": [{"x": 212, "y": 640, "width": 61, "height": 18, "area": 403, "peak": 0.97}],
                    "note": None,
                    "heat_map": None,
                }
            ]
        }
    )
    verdict: Literal["good", "defective"] = Field(description="defective where the score is above the threshold")
    score: float = Field(description="larger is more suspicious")
    threshold: float
    image: Size
    regions: list[Box] = Field(description="largest first")
    note: str | None = Field(description="why the verdict may mislead, as a size far from those trained on")
    heat_map: str | None = Field(description="base64 of an 8-bit grey PNG at the image's size, 255 = surely defect")


class Health(BaseModel):
    status: Literal["ok"]
    model: str
    waiting: int = Field(description="images that are being read or judged, or wait for it")


class Problem(BaseModel):
    """Every refusal."""

    error: str = Field(description="one sentence: what is wrong and what to do")


def _problem(description: str, example: str, **more: Any) -> dict[str, Any]:
    content = {"application/json": {"example": {"error": example}}}
    return {"model": Problem, "description": description, "content": content, **more}


PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: _problem("The form does not parse", "The form does not parse: Missing boundary in multipart."),
    408: _problem("Sent too slowly", "The image did not arrive within 30 seconds; send it again."),
    413: _problem("Too many bytes or pixels", "The file is larger than 32 MB; send a smaller one."),
    415: _problem("No image, or one of another format", "This is no PNG, JPEG, BMP or TIFF image; convert it."),
    422: _problem("Damaged image, or a bad parameter", "The PNG file is damaged: its header does not decode."),
    500: _problem("The model failed", "The model failed on this image; the server's log says why."),
    503: _problem(
        "Too many images are waiting",
        "Too many images are waiting; send this one again in a second.",
        headers={"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}},
    ),
}

_BINARY = {"type": "string", "format": "binary"}
_FORM = {"type": "object", "required": ["image"], "properties": {"image": _BINARY}}
PREDICT: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {FORM: {"schema": _FORM}} | {kind: {"schema": _BINARY} for kind in IMAGE_TYPES},
    }
}
