"""What a stack needs before any of it is started."""

from models.address import speaks_tls
from models.owner import make_home
from models.settings import Settings


def prepare(settings: Settings) -> None:
    """Make the home, and in it the hub's certificate where one is needed; raises `SettingsError` and `UnavailableError`."""
    needs_certificate = speaks_tls(settings)
    make_home(settings.home)
    if needs_certificate:
        from models import tls  # a tenth of a second that the others need not wait

        tls.check(settings)
