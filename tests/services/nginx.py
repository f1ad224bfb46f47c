"""A private nginx in front of an app: in a folder of its own, on a free port, gone when the tests are."""

import contextlib
import getpass
import shutil
import subprocess
import time
import urllib.error
import urllib.request

from tests.services.s3_servers import PortTakenError, free_port, started

READY_WITHIN = 30  # seconds
_CONFIGURATION = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log warn;
{user}
events {{ worker_connections 64; }}
http {{
  access_log off; sendfile on; default_type application/octet-stream;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port}; client_max_body_size 0;
    location / {{
      proxy_pass http://127.0.0.1:{app_port}; proxy_http_version 1.1; proxy_request_buffering off;
      proxy_set_header Host $http_host;
    }}
    location /_docs/ {{
      internal; alias {files}/;
      # Of the app's answer nginx keeps the type, the disposition and the caching; the rest is passed on by hand.
      add_header X-Content-Type-Options $upstream_http_x_content_type_options;
      add_header Content-Security-Policy $upstream_http_content_security_policy;
      add_header Referrer-Policy $upstream_http_referrer_policy;
      add_header Cross-Origin-Resource-Policy $upstream_http_cross_origin_resource_policy;
    }}
  }}
}}
"""


@contextlib.contextmanager
def in_front_of(app_port, files, folder):
    """Run nginx before the app at *app_port*, which may have it send what lies in *files*; yield its address."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin:/opt/homebrew/bin")
    if program is None:
        raise RuntimeError("these tests need nginx: run tests/services/provision")
    folder.mkdir()
    port, process = started(lambda: _on_a_port(program, app_port, files, folder))
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _on_a_port(program, app_port, files, folder):
    port = free_port()
    user = f"user {getpass.getuser()};" if getpass.getuser() == "root" else ""
    configuration = folder / "nginx.conf"
    configuration.write_text(
        _CONFIGURATION.format(folder=folder, port=port, app_port=app_port, files=files, user=user), "utf-8"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "-p", folder, "-c", configuration], stderr=log)
    try:
        _wait(process, f"http://127.0.0.1:{port}/alive", folder)
    except BaseException:
        process.terminate()
        process.wait(10)
        raise
    return port, process


def _wait(process, address, folder):
    deadline = time.monotonic() + READY_WITHIN
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5) as answer:
            answer.read()
            return
        if process.poll() is not None:  # somebody else may have taken the port meanwhile
            raise PortTakenError(f"nginx has ended:\n{(folder / 'log').read_text()}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"nginx did not start:\n{(folder / 'log').read_text()}")
        time.sleep(0.05)
