"""The types of Prefect blocks that fleetflow brings along: people make such blocks in Prefect's UI, and name them where they need them."""

from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient
from pydantic import Field, SecretStr

from flows.patience import patiently
from models.credentials import Credentials


class SshCredentials(Block):
    """What a fleetflow worker logs in with on hosts, over SSH. Hosts name it in hosts.yaml, tasks as `credentials`."""

    _block_type_name = "fleetflow SSH credentials"
    _block_type_slug = "fleetflow-ssh-credentials"
    _description = (
        "What fleetflow logs in with on hosts: a private key or a password, or both. "
        "Hosts name the block in hosts.yaml, tasks in the field `credentials`."
    )
    _code_example = 'fleetflow run "uptime" --target @web --credentials NAME-OF-THE-BLOCK'

    user: str | None = Field(
        default=None, title="User", description="User to log in as. Empty: as the task, the inventory, the settings or ~/.ssh/config say."
    )
    key: SecretStr | None = Field(
        default=None,
        title="Private key",
        description="Text of the private key (ed25519, ECDSA or RSA), from its BEGIN line to its END line, as in ~/.ssh/id_ed25519.",
    )
    passphrase: SecretStr | None = Field(default=None, title="Passphrase", description="Passphrase of the private key, if it has one.")
    password: SecretStr | None = Field(
        default=None,
        title="Password",
        description="Password of the user, for hosts that do not take the key; also for keyboard-interactive.",
    )
    jump: str | None = Field(
        default=None,
        title="Jump host",
        description="[user@]host[:port] of the jump host, several with commas, nearest first. Key and password are used there, too.",
    )

    def named(self, name: str) -> Credentials:
        """The values under the name of their block; an empty field says nothing."""
        return Credentials(
            name=name,
            user=self.user or None,
            key=_shown(self.key),
            passphrase=_shown(self.passphrase),
            password=_shown(self.password),
            jump=self.jump or None,
        )


async def register(client: PrefectClient) -> None:
    """Make the block types known to Prefect, or bring them up to date, so that its UI shows their forms."""
    await patiently(lambda: SshCredentials.aregister_type_and_schema(client=client))


def _shown(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() or None if secret is not None else None
