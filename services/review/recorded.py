"""Sentences that others wrote down or raise in English, said in the language of the page.

Reasons, verdicts and conditions are kept as sentences. Each kind is a message here, with `%(name)s` where it
had values; a text is read as one of them after the other. What is not known here is shown as it was written.
"""

import re
from functools import cache

from services.review.language import DEFAULT, choose_language, join_sentences, mark, translate

#: Longer ones first where one begins like another.
RECORDS = (
    # verdicts of the gate (backtalk.gate, backtalk.checks)
    mark("Rejected by a veto."),
    mark("Rejected."),
    mark("Passed, no veto struck."),
    mark("Cannot tell: the holdout has no images. Answer audits, so that it fills."),
    mark("Cannot tell."),
    mark("The two are so alike that more holdout images would hardly decide."),
    mark("About %(n)s more holdout image would decide, if answered alike (then: %(towards)s)."),
    mark("About %(n)s more holdout images would decide, if answered alike (then: %(towards)s)."),
    mark("The candidate gives scores that are not numbers."),
    mark("The holdout has no images, so nothing can be told."),
    mark(
        "%(points)s against the %(against)s (%(fixed)s fixed, %(broken)s broken of %(n)s holdout images), "
        "at most %(bound)s with %(sure)s confidence: surely worse."
    ),
    mark(
        "%(points)s against the %(against)s (%(fixed)s fixed, %(broken)s broken of %(n)s holdout images), "
        "at least %(bound)s with %(sure)s confidence; %(limit)s is the limit."
    ),
    mark(
        "%(points)s against the %(against)s (%(fixed)s fixed, %(broken)s broken of %(n)s holdout images), "
        "but only at least %(bound)s with %(sure)s confidence: not above %(limit)s."
    ),
    mark("%(fixed)s fixed, %(broken)s broken: more broken than fixed."),
    mark("%(fixed)s fixed, %(broken)s broken: at least as many fixed as broken."),
    mark("No images to compare on."),
    mark(
        "Brier score %(value)s (more is worse), at least %(bound)s with %(sure)s confidence; "
        "%(limit)s is the limit."
    ),
    mark("Brier score %(value)s (more is worse): too few images to judge, it takes %(least)s."),
    mark("Calibration error %(value)s, the champion's is %(other)s; not judged."),
    mark("No images to measure calibration on."),
    mark("No reported mistakes to ask about yet."),
    mark("No confirmed answers to ask about yet."),
    mark(
        "%(broken)s broken of %(n)s %(what)s that the champion reads right, %(fixed)s others fixed: "
        "too few to judge, it takes %(least)s."
    ),
    mark(
        "%(broken)s broken of %(n)s %(what)s that the champion reads right, %(fixed)s others fixed: "
        "at least %(bound)s with %(sure)s confidence, %(limit)s may break."
    ),
    mark("No class has %(n)s holdout images: too few to judge."),
    mark(
        "Of %(classes)s classes %(label)s comes off worst: recall %(points)s on %(n)s images, "
        "no loss is shown; %(limit)s may be lost."
    ),
    mark(
        "Of %(classes)s classes %(label)s comes off worst: recall %(points)s on %(n)s images, "
        "a loss of %(bound)s or more with %(sure)s confidence; %(limit)s may be lost."
    ),
    mark(
        "Of %(classes)s classes %(label)s comes off worst against version %(version)s: recall %(points)s on "
        "%(n)s images, no loss is shown; %(limit)s may be lost."
    ),
    mark(
        "Of %(classes)s classes %(label)s comes off worst against version %(version)s: recall %(points)s on "
        "%(n)s images, a loss of %(bound)s or more with %(sure)s confidence; %(limit)s may be lost."
    ),
    mark("The champion is the only anchor: nothing else to compare with."),
    mark(
        "The backbone has %(size)s MB against %(other)s MB of the champion's: %(share)s, and %(limit)s is "
        "allowed."
    ),
    mark(
        "One image takes %(time)s ms on one thread, %(share)s of the champion's %(other)s ms (at least "
        "%(bound)s with %(sure)s confidence); %(limit)s is allowed."
    ),
    mark("The policy's serve_int8 is false: a person may promote it."),
    mark("This holdout has served %(n)s verdicts before; %(share)s of it is new."),
    mark("It wears out: answer audits, or raise audit_share, so that new images come in."),
    mark("Another process loaded the SavedModel and got the answers that LiteRT serves."),
    mark(
        "Another process loaded the float SavedModel: it gives %(share)s of the golden images the label that "
        "the 8-bit backbone gives, near-ties counted as alike."
    ),
    # what the gate compares with and counts, and where a forecast goes
    mark("champion"),
    mark("anchor"),
    mark("reported mistakes"),
    mark("confirmed answers"),
    mark("better"),
    mark("worse"),
    mark("no worse"),
    mark("passed"),
    mark("rejected"),
    mark("inconclusive"),
    mark("head"),
    mark("full"),
    mark("%(n)s points"),
    # why runs start, and why not (backtalk.triggers, backtalk.wishes)
    mark("On hold, with %(n)s decided statements waiting; hold=false in the policy lifts it."),
    mark("Nothing was approved since the last run, so the night of %(night)s is skipped."),
    mark("%(n)s of %(wanted)s decided statements: the night of %(night)s is skipped."),
    mark("Nothing was approved since the last run."),
    mark("%(n)s decided statements, but %(few)s of %(wanted)s for %(label)s."),
    mark("%(n)s of %(wanted)s decided statements."),
    mark("The run for this was cancelled; a new statement or a person starts the next one."),
    mark("The run for this was quarantined; a new statement or a person starts the next one."),
    mark("%(n)s runs for this failed; a new statement or a person starts the next one."),
    mark("A run for exactly these statements has had its verdict."),
    mark("%(n)s decided statements wait, and %(wanted)s are enough; try %(try)s."),
    mark("%(n)s decided statements wait, and %(wanted)s are enough."),
    mark("The night of %(night)s has come, with %(n)s decided statements waiting; try %(try)s."),
    mark("The night of %(night)s has come, with %(n)s decided statements waiting."),
    mark("Version %(n)s learned from something that was withdrawn; try %(try)s."),
    mark("Version %(n)s learned from something that was withdrawn."),
    mark("%(who)s asked for a %(kind)s run."),
    mark("Another %(kind)s run is active; its end asks again."),
    mark("But %(n)s runs began today, as many as max_runs_per_day allows."),
    mark("The last run has just ended; cooldown_s is %(seconds)s."),
    mark("Somebody is deciding just now; debounce_s is %(seconds)s."),
    # how runs end otherwise (backtalk.runs, backtalk.trainers, backtalk.learn.finetune)
    mark("The trainer was stopped."),
    mark("The trainer ended %(how)s, before it was done; see its log."),
    mark("The disk is full. Make room, then ask for the run again."),
    mark("The device has too little memory for this run: lower `batch_size`."),
    mark("The run uses %(used)s MB of memory, and its recipe allows %(allowed)s."),
    mark("Lower `batch_size`, or raise `memory_mb`."),
    mark("The loss was no number at step %(step)s, epoch %(epoch)s."),
    mark("Lower `learning_rate` in the recipe, or look for odd images."),
    mark("Quarantined after %(n)s attempts: %(why)s."),
    # a report that looks wrong (backtalk.suspicion)
    mark(
        "The champion gave %(label)s a score of %(score)s, and of the %(n)s most similar training images "
        "that people labelled, none is %(same)s and %(alike)s is %(other)s."
    ),
    mark(
        "The champion gave %(label)s a score of %(score)s, and of the %(n)s most similar training images "
        "that people labelled, none is %(same)s and %(alike)s are %(other)s."
    ),
    mark("The champion gave %(label)s a score of %(score)s."),
    mark(
        "A device predicted it, and of the %(n)s most similar training images that people labelled, none is "
        "%(same)s and %(alike)s is %(other)s."
    ),
    mark(
        "A device predicted it, and of the %(n)s most similar training images that people labelled, none is "
        "%(same)s and %(alike)s are %(other)s."
    ),
    mark("A device predicted it."),
    mark(
        "%(n)s corrections of %(predicted)s to %(reported)s stand out: the champion held its answer "
        "%(times)s times as likely as that label, in other corrections %(usual)s times."
    ),
    mark("Look at a few."),
    mark("Heads that learned from the other samples alone give %(label)s %(share)s and %(other)s %(score)s."),
    # people, keys, passwords
    mark("A user's name has 1 to 64 letters a-z, digits or . _ @ - and begins with a letter or digit."),
    mark("Somebody is called %(name)s already."),
    mark("%(name)s is the last admin: make somebody else one first."),
    mark("Nobody is called %(name)s; `backtalk users list` shows who there is."),
    mark("Choose another password than the one that you were given."),
    mark("The name or the password is wrong."),
    mark("The present password is wrong."),
    mark("The password that you were given has ended; ask an admin for another one."),
    mark("A key needs a name of 1 to 100 printable characters."),
    mark("The id of a key has %(n)s letters or digits."),
    mark("This key was made already, and was shown then. Make another one, and end this one."),
    mark("Key %(id)s was revoked: make a new one with `backtalk keys create`."),
    mark("No key has the id %(id)s."),
    mark("At least one scope is needed; the scopes are %(scopes)s."),
    mark("Unknown scope %(scope)s; the scopes are %(scopes)s."),
    mark("A password has %(least)s to %(most)s characters."),
    mark("A password has %(n)s different characters at least, and does not begin with the name."),
    mark("Too many failed sign-ins just now; wait five minutes and try again."),
    mark("The two new passwords differ. Nothing was changed."),
    mark("The policy was not changed. %(why)s"),
    # answers and what they are about
    mark("This item waits for an expert: it takes the scope `expert` to decide it."),
    mark("This item waits for an expert already; skip it."),
    mark("There is no review item %(id)s."),
    mark("That answer did not count, so there is nothing to undo."),
    mark("The picture was deleted meanwhile, so there is nothing left to decide."),
    mark("The report was withdrawn meanwhile, so there is nothing left to decide."),
    mark("%(who)s has decided it since; your answer is part of that."),
    mark("Another report about it was decided since; that decision stands."),
    mark("A new report about it has come in: it is in the queue again. Decide it there."),
    mark("What the item was about was withdrawn meanwhile."),
    mark("%(who)s is looking at it just now."),
    mark("The item has changed since you read it. Read it again and decide anew."),
    mark("This model's policy (four_eyes) lets nobody label what they reported themselves."),
    mark("You have decided this item; this model's policy (quorum) asks for somebody else."),
    mark("%(model)s has no label %(label)s."),
    mark("Another reviewer has decided it since; your answer is part of that."),
    mark("Another reviewer is looking at it just now."),
    mark("The label in question was replaced or withdrawn meanwhile."),
    mark("This item is no longer open: what it was about was withdrawn."),
    # models, versions, runs
    mark("Somebody else has just changed the champion of %(model)s; look again."),
    mark("Version %(n)s went live meanwhile, so nothing was changed."),
    mark("The SavedModel of version %(n)s was pruned to save room."),
    mark("Version %(n)s is quarantined: its files do not verify."),
    # why there is no file for devices (backtalk.devicefiles, backtalk.devicecheck)
    mark("The files of version %(n)s were pruned to save room, so no file can be made of it."),
    mark("The files of version %(n)s are missing, so no file can be made of it."),
    mark("There is no form %(form)s. Use one of %(forms)s."),
    mark("This version's backbone is one of 8-bit integers, and its file has the form int8, not %(form)s."),
    mark(
        "This version's backbone is a float one. A run with the recipe int8 makes one of 8-bit integers, "
        "which the gate judges; the form dynamic has 8-bit weights, too."
    ),
    mark(
        "In the form %(form)s this version gives %(share)s of %(n)s golden images the label that it gives "
        "here, and %(needed)s is needed, so there is no such file of it."
    ),
    mark(
        "In the form %(form)s a score of this version differs by %(value)s from what it is here, and "
        "%(limit)s is allowed, so there is no such file of it."
    ),
    mark("The disk is full. Make room, then ask for the file again."),
    mark("The backbone %(digest)s is missing."),
    mark("The backbone %(digest)s was changed."),
    mark("A head run has no recipe: leave it out, or ask for a full run."),
    mark("There is no model called %(name)s."),
    mark("Model %(model)s has no version %(n)s."),
    mark("%(model)s has no version %(n)s."),
    mark("%(model)s has no run %(id)s."),
    mark("There is no run %(id)s."),
    mark("%(model)s has no picture %(id)s."),
    mark("The pixels of this picture were deleted, or its policy keeps none."),
    mark("Version %(n)s of %(model)s is live already."),
    mark("Version %(n)s of %(model)s is %(state)s and cannot be promoted."),
    mark("Version %(n)s is the first; there is none before it."),
    mark("%(model)s has no earlier version than %(n)s."),
    mark("A %(kind)s run is active on %(model)s already. Wait until it ends."),
    mark("That cursor is not one of this list: send the `next` of the page before."),
    # files of a version (backtalk.sums)
    mark("%(version)s: %(file)s does not belong to this artefact"),
    mark("%(version)s: %(file)s is not a plain file"),
    mark("%(version)s: %(file)s is missing"),
    mark("%(version)s: %(file)s was changed"),
)


def record(text: str | None) -> str:
    """`text` in the language of this request, if all of it is known; else as it is. Empty for None."""
    if not text or choose_language() == DEFAULT:
        return text or ""
    said, rest = [], text
    while rest:
        found = _read_first(rest)
        if found is None:
            return text
        said.append(found[0])
        rest = rest[found[1] :].lstrip()
    return join_sentences(said)


def _read_first(text: str) -> tuple[str, int] | None:
    """The message that `text` begins with, translated, and where it ends."""
    for pattern, message in _compile():
        match = pattern.match(text)
        if match:
            values = {name: _say_value(value) for name, value in match.groupdict().items()}
            return translate(message, **values), match.end()
    return None


def _say_value(value: str) -> str:
    """A value may be words of ours, too. One in Python's quotes is a label, and loses them."""
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    found = _read_first(value)
    return found[0] if found and found[1] == len(value) else value


@cache
def _compile() -> tuple[tuple[re.Pattern[str], str], ...]:
    """Each message as what matches it at the beginning of a text; no value runs over a sentence's end."""
    made = []
    for message in RECORDS:
        parts = re.split(r"%\((\w+)\)s", message)
        fixed = [re.escape(part) for part in parts[::2]]
        names = [rf"(?P<{name}>(?:(?!\. ).)+?)" for name in parts[1::2]]
        joined = "".join(part for pair in zip(fixed, [*names, ""], strict=True) for part in pair)
        made.append((re.compile(rf"{joined}(?=\s|$)"), message))
    return tuple(made)
