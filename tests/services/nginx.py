"""nginx in front of an app, in a temporary directory, on a free port, stopped after the tests."""

import contextlib
import getpass
import shutil
import subprocess
import time
import urllib.error
import urllib.request

from tests.services.s3_servers import PortTakenError, free_port, start_with_retry

READY_WITHIN = 30  # seconds
_CONFIGURATION = """
worker_processes 1; daemon off; pid {directory}/nginx.pid; error_log {directory}/error.log warn;
{user}
events {{ worker_connections 64; }}
http {{
  access_log off; sendfile on; default_type application/octet-stream;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  server {{
    listen 127.0.0.1:{port}; client_max_body_size 0;
    location / {{
      proxy_pass http://127.0.0.1:{app_port}; proxy_http_version 1.1; proxy_request_buffering off;
      proxy_set_header Host $http_host;
    }}
    location /_docs/ {{
      internal; alias {files}/;
      # Of the app's response nginx keeps the type, the disposition and the caching; other headers must be added.
      add_header X-Content-Type-Options $upstream_http_x_content_type_options;
      add_header Content-Security-Policy $upstream_http_content_security_policy;
      add_header Referrer-Policy $upstream_http_referrer_policy;
      add_header Cross-Origin-Resource-Policy $upstream_http_cross_origin_resource_policy;
    }}
  }}
}}
"""


@contextlib.contextmanager
def in_front_of(app_port, files, directory):
    """Run nginx in front of the app at *app_port*, with *files* as internal location; yield its address."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin:/opt/homebrew/bin")
    if program is None:
        raise RuntimeError("these tests need nginx: run tests/services/provision")
    directory.mkdir()
    port, process = start_with_retry(lambda: _start_on_free_port(program, app_port, files, directory))
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _start_on_free_port(program, app_port, files, directory):
    port = free_port()
    user = f"user {getpass.getuser()};" if getpass.getuser() == "root" else ""
    configuration = directory / "nginx.conf"
    configuration.write_text(
        _CONFIGURATION.format(directory=directory, port=port, app_port=app_port, files=files, user=user), "utf-8"
    )
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([program, "-p", directory, "-c", configuration], stderr=log)
    try:
        _wait(process, f"http://127.0.0.1:{port}/alive", directory)
    except BaseException:
        process.terminate()
        process.wait(10)
        raise
    return port, process


def _wait(process, address, directory):
    deadline = time.monotonic() + READY_WITHIN
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5) as response:
            response.read()
            return
        if process.poll() is not None:  # another process may have taken the port
            raise PortTakenError(f"nginx has ended:\n{(directory / 'log').read_text()}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"nginx did not start:\n{(directory / 'log').read_text()}")
        time.sleep(0.05)
