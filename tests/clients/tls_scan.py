"""sslyze against the listener: what it offers, and what it must not."""

import base64
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import urllib.parse

address = urllib.parse.urlsplit(os.environ["URL"])
failed = 0
number = 0


def check(name, good, seen=""):
    global failed, number
    number += 1
    print(f"{'ok' if good else 'not ok'} {number} - {name}")
    if not good:
        failed += 1
        print(f"    {str(seen)[:800]}")


with tempfile.TemporaryDirectory() as folder:
    out = pathlib.Path(folder) / "scan.json"
    command = [
        sys.executable, "-m", "sslyze", "--json_out", str(out), "--certinfo", "--sslv2", "--sslv3", "--tlsv1", "--tlsv1_1",
        "--tlsv1_2", "--tlsv1_3", "--compression", "--heartbleed", "--openssl_ccs", "--robot", "--reneg", "--fallback",
        "--early_data", "--elliptic_curves", f"{address.hostname}:{address.port}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    report = json.loads(out.read_text()) if out.exists() else {}

servers = report.get("server_scan_results", [])
check("the scan reached the listener", len(servers) == 1 and servers[0]["scan_status"] == "COMPLETED", done.stdout[-500:] + done.stderr[-500:])
if failed:
    print(f"1..{number}")
    sys.exit(1)
result = servers[0]["scan_result"]


def of(name):
    part = result[name]
    check(f"{name}: done", part["status"] == "COMPLETED", part)
    return part["result"] or {}


def suites(name):
    return [s["cipher_suite"]["name"] for s in of(name).get("accepted_cipher_suites", [])]


for old in ["ssl_2_0_cipher_suites", "ssl_3_0_cipher_suites", "tls_1_0_cipher_suites", "tls_1_1_cipher_suites"]:
    found = suites(old)
    check(f"{old}: none", found == [], found)
both = {"1.2": suites("tls_1_2_cipher_suites"), "1.3": suites("tls_1_3_cipher_suites")}
for version, found in both.items():
    check(f"TLS {version} is offered", len(found) > 0)
weak = [s for found in both.values() for s in found if not ("GCM" in s or "POLY1305" in s)]
check("every suite is authenticated encryption", weak == [], weak)
static = [s for s in both["1.2"] if not s.startswith("TLS_ECDHE_")]
check("every suite of TLS 1.2 has forward secrecy", static == [], static)
check("no compression", of("tls_compression").get("supports_compression") is False)
check("no Heartbleed", of("heartbleed").get("is_vulnerable_to_heartbleed") is False)
check("no CCS injection", of("openssl_ccs_injection").get("is_vulnerable_to_ccs_injection") is False)
check("no ROBOT", "NOT_VULNERABLE" in str(of("robot").get("robot_result")))
reneg = of("session_renegotiation")
check("no renegotiation by the client", reneg.get("is_vulnerable_to_client_renegotiation_dos") is False, reneg)
check("no early data", of("tls_1_3_early_data").get("supports_early_data") is False)
curves = [c["name"] for c in of("elliptic_curves").get("supported_curves") or []]
check("the curves are X25519, P-256 and P-384", set(curves) == {"X25519", "secp256r1", "secp384r1"}, curves)
deployments = of("certificate_info").get("certificate_deployments", [])
check("one certificate is shown", len(deployments) == 1, len(deployments))
leaf = deployments[0]["received_certificate_chain"][0]
check("its key is P-256, signed with SHA-256", leaf["public_key"].get("ec_curve_name") == "secp256r1" and leaf["signature_hash_algorithm"]["name"] == "sha256", leaf["public_key"])
seen = base64.b64decode(leaf["fingerprint_sha256"]).hex()
check("it is the pinned one", seen == os.environ["TLS_FINGERPRINT"], seen)
print(f"1..{number}")
sys.exit(1 if failed else 0)
