#!/usr/bin/env python3
"""`tollgate check` with the settings that each file of a deployment sets: a variable that Tollgate does not know, or an
unready value, would be a container that never starts.

    scripts/deploy_env.py target/debug/tollgate

Kubernetes' objects are held against its schemas too, where kubernetes-validate is installed (--kubernetes demands it)."""

import os
import re
import subprocess
import sys
import tempfile
import tomllib

import yaml

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
# What an operator fills in.
FILLED = {
    "SUPABASE_URL": "https://abcdefghijklmnopqrst.supabase.co",
    "OPENAI_API_KEY": "sk-an-operators-key-0123456789",
    "DATABASE_URL": "postgres://user:password@db.example:5432/database",
    "TOLLGATE_ADMIN_TOKEN": "an-operators-token-0123456789",
    "DOMAIN": "api.example.com",
}


def interpolated(text, variables):
    """As Compose reads `${NAME}`, `${NAME:-otherwise}`, `${NAME:+instead}` and `${NAME:?why}`."""

    def value(found):
        name, how, word = found[1], found[2], found[3]
        said = variables.get(name, "")
        return {None: said, ":-": said or word, ":+": word if said else "", ":?": said}[how]

    return re.sub(r"\$\{(\w+)(?:(:[-+?])([^}]*))?\}", value, text)


def load(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return list(yaml.safe_load_all(file))


def compose(path, variables):
    """The environment that Compose gives to Tollgate."""
    service = load(path)[0]["services"].get("tollgate", {})
    if "env_file" in service:
        sys.exit(f"{path}: env_file hands every variable of .env to Tollgate, and never reads it again")
    return {name: interpolated(value, variables) for name, value in service.get("environment", {}).items()}


def kubernetes():
    """Environment and tollgate.toml of the deployment."""
    objects = {each["kind"]: each for each in load("deploy/kubernetes/tollgate.yaml")}
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    env = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
    return env, objects["ConfigMap"]["data"]["tollgate.toml"], pod["terminationGracePeriodSeconds"]


def check(binary, what, env, toml=""):
    """Runs `tollgate check` as the container would."""
    with tempfile.TemporaryDirectory() as folder:
        settings = os.path.join(folder, "settings")
        os.mkdir(settings)
        for name, text in (("tollgate.toml", toml), (".env", "".join(f"{name}={FILLED[name]}\n" for name in FILLED))):
            with open(os.path.join(settings, name), "w", encoding="utf-8") as file:
                file.write(text)
        env = {**env, **({"TOLLGATE_CONFIG": settings} if "TOLLGATE_CONFIG" in env else FILLED)}
        done = subprocess.run([binary, "check"], cwd=folder, env=env, capture_output=True, text=True, timeout=30)
        if done.returncode:
            sys.exit(f"{what}: tollgate check refuses it:\n{done.stderr}")
        print(f"✓ tollgate check takes {what}", flush=True)


def main():
    binary = os.path.abspath(sys.argv[1])
    for variables in ({}, FILLED):
        with_token = "with" if variables else "without"
        check(binary, f"docker-compose.yml {with_token} an operator's token", compose("docker-compose.yml", variables))
    check(binary, "deploy/compose.yml over it", {**compose("docker-compose.yml", FILLED), **compose("deploy/compose.yml", FILLED)})
    with open(os.path.join(ROOT, "deploy/fly/fly.toml"), "rb") as file:
        check(binary, "deploy/fly/fly.toml", tomllib.load(file)["env"])
    render = load("deploy/render/render.yaml")[0]["services"][0]["envVars"]
    check(binary, "deploy/render/render.yaml", {each["key"]: each["value"] for each in render if "value" in each})
    env, toml, grace = kubernetes()
    check(binary, "deploy/kubernetes/tollgate.yaml", env, toml)
    delay = int(re.search(r'shutdown_delay = "(\d+)s"', toml)[1])
    if grace <= delay + 30 + 6:
        sys.exit(f"deploy/kubernetes/tollgate.yaml: {grace} s are too few for {delay} s, 30 s of grace and 6 s to settle")
    with open(os.path.join(ROOT, "deploy/railway/railway.toml"), "rb") as file:
        tomllib.load(file)
    try:
        import kubernetes_validate
    except ImportError:
        if "--kubernetes" in sys.argv:
            raise
        print("NOT CHECKED: Kubernetes' objects by their schemas: kubernetes-validate is not installed", flush=True)
        return
    for each in load("deploy/kubernetes/tollgate.yaml"):
        version = kubernetes_validate.validate(each, "1.34", strict=True)
        print(f"✓ {each['kind']} is valid in Kubernetes {version}", flush=True)


if __name__ == "__main__":
    main()
