"""Calls to Backtalk's API, as any app would make them."""

from collections.abc import Iterator
from typing import Any

import httpx

Json = dict[str, Any]


class CallFailed(RuntimeError):
    """The API answered with a problem; the message holds its status, title and detail."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        super().__init__(f"{response.request.method} {response.request.url}: {self.status} {_say(response)}")


class Client:
    """One key's view of one server. Safe to share between threads."""

    def __init__(self, address: str, key: str, *, timeout_s: float = 30.0) -> None:
        self.key = key
        self.http = httpx.Client(
            base_url=address, headers={"Authorization": f"Bearer {key}"}, timeout=timeout_s
        )

    def close(self) -> None:
        self.http.close()

    def predict(self, model: str, image: bytes) -> Json:
        """One image in, one prediction out; `version` says who answered."""
        answer = self._call(
            "POST",
            f"/v1/models/{model}:predict",
            content=image,
            headers={"Content-Type": "application/octet-stream"},
        )
        return dict(answer["predictions"][0], version=int(answer["version"]))

    def correct(self, prediction_id: str, label: str, reporter: str) -> Json:
        path = f"/v1/predictions/{prediction_id}/corrections"
        return self._call("POST", path, json={"label": label, "reporter": reporter})

    def confirm(self, prediction_id: str, reporter: str) -> Json:
        path = f"/v1/predictions/{prediction_id}/confirmations"
        return self._call("POST", path, json={"reporter": reporter})

    def receipt(self, correction_id: str) -> Json:
        return self._call("GET", f"/v1/corrections/{correction_id}")

    def lease(self, model: str, limit: int = 50) -> list[Json]:
        """Review items for this caller alone, until their lease ends."""
        return list(self._call("GET", f"/v1/models/{model}/review", params={"limit": limit})["items"])

    def decide(self, item: Json, action: str, label: str | None = None) -> Json:
        """Answer a leased item; If-Match keeps two reviewers from deciding the same one."""
        body = {"action": action} if label is None else {"action": action, "label": label}
        path = f"/v1/review/{item['item']}/decisions"
        return self._call("POST", path, json=body, headers={"If-Match": item["etag"]})

    def model(self, model: str) -> Json:
        return self._call("GET", f"/v1/models/{model}")

    def train(self, model: str, *, kind: str = "head", recipe: str | None = None) -> Json:
        body = {"kind": kind} if recipe is None else {"kind": kind, "recipe": recipe}
        return self._call("POST", f"/v1/models/{model}/runs", json=body)

    def run(self, run_id: str) -> Json:
        return self._call("GET", f"/v1/runs/{run_id}")

    def runs(self, model: str) -> Iterator[Json]:
        return self.items(f"/v1/models/{model}/runs")

    def versions(self, model: str) -> Iterator[Json]:
        return self.items(f"/v1/models/{model}/versions")

    def triggers(self, model: str) -> Iterator[Json]:
        return self.items(f"/v1/models/{model}/triggers")

    def promote(self, model: str, number: int) -> Json:
        return self._call("POST", f"/v1/models/{model}/versions/{number}:promote")

    def rollback(self, model: str) -> Json:
        return self._call("POST", f"/v1/models/{model}:rollback")

    def items(self, path: str) -> Iterator[Json]:
        """Walk a list page by page, newest first."""
        cursor = None
        while True:
            page = self._call("GET", path, params={"cursor": cursor} if cursor else None)
            yield from page["items"]
            cursor = page["next"]
            if cursor is None:
                return

    def _call(self, method: str, path: str, **request: Any) -> Json:
        response = self.http.request(method, path, **request)
        if response.is_error:
            raise CallFailed(response)
        return dict(response.json()) if response.content else {}


def _say(response: httpx.Response) -> str:
    try:
        problem = response.json()
    except ValueError:
        return response.text[:200]
    return f"{problem.get('title', '')}: {problem.get('detail', '')}"
