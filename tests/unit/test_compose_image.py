"""The application's image is made as ``make install`` makes it, and what is mounted into the containers is there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.compose_file import APPLICATION, PROJECT, REPOSITORY, SERVICES, SOURCE, environment, instructions


class TestImage:
    def test_it_is_made_as_make_install_does_it(self) -> None:
        pip = re.compile(r"python -m pip install (?:--\S+ )*?((?:--require-hashes|--no-build-isolation).*)")
        makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
        runs = "\n".join(text for instruction, text in instructions("web") if instruction == "RUN")
        made = [found.partition(" && ")[0].strip() for found in pip.findall(runs)]
        assert made == pip.findall(makefile.replace("$(BIN)/", "")) != []

    def test_it_holds_every_package_and_all_that_is_copied_is_there(self) -> None:
        copied = {text.split()[0] for instruction, text in instructions("web") if instruction == "COPY"}
        several = [text.split()[:-1] for instruction, text in instructions("web") if instruction == "COPY"]
        names = {name for words in several for name in words}
        assert [name for name in sorted(names) if not (REPOSITORY / name).exists()] == []
        pyproject = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
        packages = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
        assert set(packages) <= copied
        project = pyproject["project"]
        assert {"pyproject.toml", project["readme"], *project["license-files"], "requirements.lock"} <= names

    def test_what_is_copied_is_enough_to_install_the_command(self, tmp_path: Path) -> None:
        for words in [text.split() for instruction, text in instructions("web") if instruction == "COPY"]:
            for name in words[:-1]:
                place = tmp_path / "source" / name
                if (REPOSITORY / name).is_dir():
                    shutil.copytree(REPOSITORY / name, place, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    place.parent.mkdir(exist_ok=True)
                    shutil.copy(REPOSITORY / name, place)
        # What pip calls for "install --no-build-isolation -e .".
        build = "import sys, hatchling.build; print(hatchling.build.build_editable(sys.argv[1]))"
        built = subprocess.run(
            [sys.executable, "-c", build, str(tmp_path)],
            cwd=tmp_path / "source",
            capture_output=True,
            text=True,
            check=False,
        )
        assert built.returncode == 0, built.stderr
        with zipfile.ZipFile(tmp_path / built.stdout.split()[-1]) as wheel:
            names = wheel.namelist()
            (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
            assert b"dragonfly = app.cli:main" in wheel.read(entry_points)

    def test_it_runs_as_the_user_it_made(self) -> None:
        steps = dict(instructions("web"))
        made = " ".join(text for instruction, text in instructions("web") if instruction == "RUN")
        user, group = APPLICATION["web"]["user"].split(":")
        assert steps["USER"] == f"{user}:{group}"
        assert f"useradd --uid {user} " in made
        assert f"groupadd --gid {group} " in made
        assert steps["WORKDIR"] == SOURCE

    def test_what_it_writes_to_belongs_to_that_user(self) -> None:
        (made,) = [text for instruction, text in instructions("web") if "install --directory" in text]
        owned = made.partition("install --directory")[2].split()
        for name, service in APPLICATION.items():
            home = environment(name)["DRAGONFLY_HOME"]
            mounted = {mount.removesuffix(":ro").rpartition(":")[2] for mount in service.get("volumes", [])}
            assert home in mounted or home == "/tmp", name
            assert mounted <= set(owned), name
        assert environment("web")["STORAGE_URL"] in owned

    def test_all_services_of_the_application_are_one_image(self) -> None:
        assert set(APPLICATION) == {"web", "worker", "beat", "flower", "migrate"}
        builds = [service["build"] for service in APPLICATION.values()]
        assert all(build == builds[0] for build in builds)


class TestMounts:
    @pytest.mark.parametrize("name", SERVICES)
    def test_a_file_of_the_repository_that_is_mounted_is_there_and_cannot_be_changed(self, name: str) -> None:
        for mount in SERVICES[name].get("volumes", []):
            if mount.startswith("."):
                source, _, how = mount.split(":")
                assert (REPOSITORY / source).exists(), source
                assert how == "ro"

    def test_uploads_are_shared_by_those_who_take_and_those_who_read_them(self) -> None:
        sharing = {
            name for name, service in SERVICES.items() for mount in service.get("volumes", []) if "blobs:" in mount
        }
        assert sharing == {"web", "worker", "beat"}
        assert set(PROJECT["volumes"]) == {"blobs", "postgres", "redis", "prometheus", "grafana"}
