# SPDX-License-Identifier: Apache-2.0
"""A certificate authority of one's own, made with the openssl command."""

import datetime
import os
import pathlib
import subprocess

_CONFIG = """
[ca]
default_ca = own
[own]
dir = {folder}
database = {folder}/index.txt
serial = {folder}/serial
new_certs_dir = {folder}
certificate = {folder}/ca.pem
private_key = {folder}/ca.key
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
[req]
distinguished_name = dn
prompt = no
[dn]
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
"""


def _openssl(*args):
    done = subprocess.run(["openssl", *map(str, args)], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"openssl {args[0]}: {done.stderr}")
    return done.stdout


def _stamp(days):
    return (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)).strftime("%Y%m%d%H%M%SZ")


class Authority:
    """ca_file is its certificate; server() and client() make (certificate, key) files that it vouches for."""

    def __init__(self, folder, name="test authority"):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ca_file = self.folder / "ca.pem"
        (self.folder / "index.txt").touch()
        (self.folder / "serial").write_text("1000\n")
        self._config = self.folder / "openssl.cnf"
        self._config.write_text(_CONFIG.format(folder=self.folder))
        key = self._key("ca")
        _openssl(
            *("req", "-new", "-x509", "-config", self._config, "-extensions", "authority", "-days", 3650),
            *("-key", key, "-subj", f"/CN={name}", "-out", self.ca_file),
        )

    def _key(self, name):
        key = self.folder / f"{name}.key"
        _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key)
        os.chmod(key, 0o600)
        return key

    def _sign(self, name, extensions, days_from, days_to):
        key = self._key(name)
        request = self.folder / f"{name}.csr"
        cert = self.folder / f"{name}.pem"
        ext = self.folder / f"{name}.ext"
        ext.write_text("\n".join(extensions) + "\n")
        _openssl("req", "-new", "-config", self._config, "-key", key, "-subj", f"/CN={name}", "-out", request)
        _openssl(
            *("ca", "-batch", "-notext", "-config", self._config, "-extfile", ext, "-in", request, "-out", cert),
            *("-startdate", _stamp(days_from), "-enddate", _stamp(days_to)),
        )
        return cert, key

    def server(self, name="server", names=("localhost",), addresses=("127.0.0.1",), days_from=-1, days_to=30):
        alt = [f"DNS:{n}" for n in names] + [f"IP:{a}" for a in addresses]
        return self._sign(
            name,
            [
                "basicConstraints = CA:FALSE",
                "keyUsage = digitalSignature",
                "extendedKeyUsage = serverAuth",
                "subjectAltName = " + ",".join(alt),
            ],
            days_from,
            days_to,
        )

    def client(self, name="client", days_from=-1, days_to=30):
        return self._sign(
            name,
            ["basicConstraints = CA:FALSE", "keyUsage = digitalSignature", "extendedKeyUsage = clientAuth"],
            days_from,
            days_to,
        )
