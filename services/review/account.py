"""A person's own account: what they may do, and a new password."""

from flask import g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from backtalk import identity
from backtalk.errors import InvalidInput, NotAuthenticated
from services.backend import get_backend
from services.review.language import mark
from services.review.sessions import cookie_name, describe_browser, set_cookie
from services.review.site import blueprint


@blueprint.get("/account")
def show_account() -> ResponseReturnValue:
    return render_template("pages/account.html", scopes=sorted(g.caller.scopes))


@blueprint.post("/account/password")
def change_password() -> ResponseReturnValue:
    """Ends every session of this person; this browser gets a new one."""
    old, new, again = (request.form.get(name, "") for name in ("old", "new", "again"))
    try:
        if new != again:
            raise InvalidInput(mark("The two new passwords differ. Nothing was changed."))
        with get_backend().system.db.transaction() as session:
            token, opened = identity.change_password(session, g.caller, old, new, **describe_browser())
    except (InvalidInput, NotAuthenticated) as error:
        said = error.message.replace("The name or the password", "The present password")
        page = render_template("pages/account.html", scopes=sorted(g.caller.scopes), problem=said)
        return page, 422
    response = redirect(url_for("pages.show_account", done="password"), code=303)
    set_cookie(response, cookie_name(), token, opened.expires_at)
    return response
