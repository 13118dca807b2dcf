"""The host key algorithms that we speak, and what a server must show for each."""

import paramiko

from executors.ssh.certificates import SUFFIX

PLAIN = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
ALL = (*(name + SUFFIX for name in PLAIN), *PLAIN)  # certificates first, as OpenSSH asks; a server without one shows its plain key


def key_type(algorithm: str) -> str:
    """The type of the plain key that an algorithm signs with."""
    plain = algorithm.removesuffix(SUFFIX)
    return "ssh-rsa" if plain.startswith("rsa-sha2-") else plain


def check_proof(algorithm: str, shown: bytes, signature: bytes) -> None:
    """Raise `SSHException` unless a server shows the kind of key, and signs in the way, that was agreed upon."""
    wanted = key_type(algorithm) + (SUFFIX if algorithm.endswith(SUFFIX) else "")
    if paramiko.Message(shown).get_string() != wanted.encode():
        raise paramiko.SSHException(f"the server shows another kind of host key than {wanted}")
    if paramiko.Message(signature).get_string() != algorithm.removesuffix(SUFFIX).encode():
        raise paramiko.SSHException(f"the server does not sign with {algorithm.removesuffix(SUFFIX)}")
