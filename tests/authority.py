"""Certificates of the suite's own, made by the openssl command, 1.1.1 or newer."""

import os
import subprocess
import tempfile

# With nothing from the system's configuration, in which distributions differ.
CONFIGURATION = "[req]\ndistinguished_name = name\n[name]\n"
REQUEST = ("req", "-config", "/dev/stdin", "-nodes",
           "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


def openssl(*arguments, input=CONFIGURATION):
    return subprocess.run(
        ["openssl", *arguments], input=input, capture_output=True, text=True, check=True).stdout


class Authority:
    """Somebody who signs certificates, and whose own says that he may.

    Attributes
    ----------
    certificate : str
        In PEM, for those who trust him.
    """

    def __init__(self, name):
        self.key_and_certificate = openssl(
            *REQUEST, "-x509", "-days", "2", "-subj", f"/CN={name}",
            "-addext", "basicConstraints=critical,CA:TRUE",
            "-keyout", "-", "-out", "-")
        self.certificate = self.key_and_certificate.partition("-----END PRIVATE KEY-----\n")[2]

    def issue(self, name, certificate, key):
        """Write a certificate for the host of that name, and its key, to these two files."""
        request = openssl(*REQUEST, "-subj", f"/CN={name}", "-keyout", key)
        with tempfile.NamedTemporaryFile("w") as signer, tempfile.NamedTemporaryFile("w") as v3:
            signer.write(self.key_and_certificate)
            signer.flush()
            v3.write(f"subjectAltName=DNS:{name}\nbasicConstraints=critical,CA:FALSE\n")
            v3.flush()
            openssl("x509", "-req", "-days", "2", "-CA", signer.name, "-CAkey", signer.name,
                    "-set_serial", f"0x{os.urandom(8).hex()}", "-extfile", v3.name,
                    "-out", certificate, input=request)
