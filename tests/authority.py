"""Certificates of the suite's own, made by the openssl command."""

import subprocess
import tempfile

# With nothing from the system's configuration, in which distributions differ.
REQUEST = ("openssl", "req", "-config", "/dev/null", "-x509", "-days", "2", "-noenc",
           "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


def openssl(*arguments):
    return subprocess.run(
        [*REQUEST, *arguments], capture_output=True, text=True, check=True).stdout


class Authority:
    """Somebody who signs certificates, and whose own says that he may.

    Attributes
    ----------
    certificate : str
        In PEM, for those who trust him.
    """

    def __init__(self, name):
        self.key_and_certificate = openssl(
            "-subj", f"/CN={name}", "-addext", "basicConstraints=critical,CA:TRUE",
            "-keyout", "-", "-out", "-")
        self.certificate = self.key_and_certificate.partition("-----END PRIVATE KEY-----\n")[2]

    def issue(self, name, certificate, key):
        """Write a certificate for the host of that name, and its key, to these two files."""
        with tempfile.NamedTemporaryFile("w") as signer:
            signer.write(self.key_and_certificate)
            signer.flush()
            openssl(
                "-CA", signer.name, "-subj", f"/CN={name}",
                "-addext", f"subjectAltName=DNS:{name}",
                "-addext", "basicConstraints=critical,CA:FALSE",
                "-keyout", key, "-out", certificate)
