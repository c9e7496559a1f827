"""Every sentence of the pages is a message, and every message is said in every language."""

import re

import pytest
from babel.messages.catalog import Message
from flask import Flask

from scripts import messages
from services.review import recorded
from services.review.language import COOKIE, DEFAULT, LANGUAGES, choose_language, translate, translate_many

OTHERS = [tag for tag in LANGUAGES if tag != DEFAULT]
TEMPLATES = sorted(messages.PAGES.glob("templates/**/*.html"))
#: What holds no sentence: markup of no words, blocks that are messages, comments.
SILENT = re.compile(
    r"<(code|pre|script|style|svg)\b.*?</\1>|\{#.*?#\}|\{%\s*trans.*?endtrans\s*%\}", re.DOTALL
)
SPOKEN = re.compile(r'\b(?:aria-label|title|placeholder|alt)="([^"]*)"')
#: The same in every language.
NAMES = re.compile(r"Backtalk|shift|SavedModel|LiteRT|SHA-256|\.tar|\.tflite|user:ada")


@pytest.fixture
def asked():  # type: ignore[no-untyped-def]
    """A request with these headers, as far as the choice of a language needs one."""
    return lambda **headers: Flask(__name__).test_request_context(headers=headers)


@pytest.mark.parametrize("language", OTHERS)
def test_each_message_of_templates_modules_and_tables_is_translated(language):
    assert messages.list_faults(language) == []


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        (Message("Save", "保存", flags=["fuzzy"]), "fuzzy"),
        (Message("Save", ""), "not translated"),
        (Message("%(n)s alike", "%(m)s 张相似"), "filled in otherwise"),
        (Message("{n} not sent", "未发送"), "filled in otherwise"),
        (Message("<em>Fixed</em>", "修正"), "filled in otherwise"),
        (Message(("%(n)s run", "%(n)s runs"), ("次训练",)), "filled in otherwise"),
        (Message("Save", "保存"), None),
    ],
)
def test_a_translation_that_lacks_something_is_found(message, fault):
    found = messages.list_faults_of(message)
    assert [said.split(":")[0] for said in found] == ([fault] if fault else [])


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_no_sentence_of_a_template_stands_outside_a_message(path):
    source = SILENT.sub("", path.read_text(encoding="utf-8"))
    outside = [re.sub(r"\{\{.*?\}\}|\{%.*?%\}", "", said) for said in SPOKEN.findall(source)]
    bare = re.sub(r"\{\{.*?\}\}|\{%.*?%\}", "\n", source, flags=re.DOTALL)
    outside += re.split(r"<[^<>]*>|\n", bare)
    assert [said.strip() for said in outside if re.search(r"[A-Za-z]{2}", NAMES.sub("", said))] == []


@pytest.mark.parametrize(
    ("headers", "language"),
    [
        ({}, "en"),
        ({"Accept-Language": "zh-CN,zh;q=0.9,en;q=0.8"}, "zh-Hans"),
        ({"Accept-Language": "zh-TW"}, "zh-Hans"),
        ({"Accept-Language": "de, en;q=0.5, zh;q=0.4"}, "en"),
        ({"Accept-Language": "fr"}, "en"),
        ({"Accept-Language": "zh", "Cookie": f"{COOKIE}=en"}, "en"),
        ({"Cookie": f"{COOKIE}=zh-Hans"}, "zh-Hans"),
        ({"Cookie": f"{COOKIE}=../../etc"}, "en"),
    ],
)
def test_the_switch_decides_then_the_browser_then_english(asked, headers, language):
    with asked(**headers):
        assert choose_language() == language


def test_a_sentence_about_many_takes_the_form_that_the_language_has(asked):
    said = (
        "%(n)s run was judged with it; those verdicts stand.",
        "%(n)s runs were judged with it; those verdicts stand.",
    )
    with asked():
        assert translate_many(*said, 1).startswith("1 run was")
        assert translate_many(*said, 2000).startswith("2\u202f000 runs were")
    with asked(**{"Accept-Language": "zh"}):
        assert translate_many(*said, 2) == "有 2 次训练曾用它判定；这些判定仍然有效。"


RECORDED = {
    "Passed, no veto struck. +2.1 points against the champion (31 fixed, 9 broken of 1040 holdout images), "
    "at least +1.0 points with 90% confidence; -2.0 points is the limit.": "通过，无否决项触发。"
    "相对线上版本 +2.1 个百分点（1040 张留出图片中修正 31、弄错 9），"
    "以 90% 置信度至少为 +1.0 个百分点；下限为 -2.0 个百分点。",
    "Cannot tell. +0.0 points against the anchor (1 fixed, 1 broken of 9 holdout images), but only at "
    "least -3.4 points with 90% confidence: not above -2.0 points. About 8 more holdout images would "
    "decide, if answered alike (then: passed).": "再有约 8 张留出图片即可判定（届时：通过）。",
    "7 decided statements, but 1 of 3 for 'Rejected.'.": "但标签 Rejected. 只有 1 条，需要 3 条。",
    "The night of 2026-11-24 has come, with 9 decided statements waiting; try 2. Another full run is "
    "active; its end asks again.": "另有完整训练在进行；结束后再检查。",
    "The champion gave 'owl' a score of 1.5%, and of the 5 most similar training images that people "
    "labelled, none is 'owl' and 4 are 'cat'.": "没有 owl，有 4 张 cat。",
    "Rejected by a veto. Of 4 classes heron comes off worst against version 3: recall -4.0 points on "
    "60 images, a loss of 2.1 or more with 99% confidence; 5 may be lost.": "heron 相对版本 3 最差",
    "One image takes 7.9 ms on one thread, 210% of the champion's 3.8 ms (at least 201% with 90% "
    "confidence); 200% is allowed.": "单线程处理一张图片用时 7.9 毫秒",
    "12 corrections of 'cat' to 'dog' stand out: the champion held its answer 40 times as likely as that "
    "label, in other corrections 2.5 times. Look at a few.": "把 cat 改为 dog",
    "A device predicted it, and of the 5 most similar training images that people labelled, none is 'owl' "
    "and 1 is 'cat'.": "由设备预测；",
    "The run uses 900 MB of memory, and its recipe allows 800. Lower `batch_size`, or raise "
    "`memory_mb`.": "训练用去 900 MB 内存，而配方只允许 800 MB。请调小 `batch_size`，或调大 `memory_mb`。",
    "The loss was no number at step 12, epoch 2. Lower `learning_rate` in the recipe, or look for odd "
    "images.": "第 2 轮第 12 步的损失不是数字。",
    "5: head.npz was changed": "版本 5：head.npz 被改动过",
    "ada is the last admin: make somebody else one first.": "ada 是最后一名管理员",
}


@pytest.mark.parametrize("written", RECORDED)
def test_what_was_written_down_in_english_is_said_in_the_language_of_the_page(asked, written):
    with asked(**{"Accept-Language": "zh"}):
        said = recorded.record(written)
        assert RECORDED[written] in said
        assert not re.search("[a-z]{3,} [a-z]{2,}", said)
    with asked():
        assert recorded.record(written) == written


def test_what_nobody_knows_is_shown_as_it_was_written(asked):
    with asked(**{"Accept-Language": "zh"}):
        assert recorded.record("Rejected. Because of the moon.") == "Rejected. Because of the moon."
        assert recorded.record(None) == ""
        assert translate("Never said before: %(n)s", n=1) == "Never said before: 1"
