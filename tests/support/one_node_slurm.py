"""A SLURM of one node on loopback: its own ports, state and key in a temporary folder, stopped by process id.

Needs Debian's slurm-wlm and munge, and root. The node sees a temporary folder of its own, as other machines do.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

CPUS = 8
"""Processors that the node says it has, more than a small machine: padded jobs sleep, and others run beside them."""

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={controller_port}
SlurmdPort={node_port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
SlurmdParameters=config_overrides
KillWait=2
ReturnToService=2
JobRequeue=1
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory}
PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Slurm:
    """A running cluster.

    private: a folder that the node sees empty, whatever this machine has in it.
    """

    folder: Path
    private: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "TMPDIR": str(self.private)}

    def ask(self, *command: str) -> str:
        """Standard output of a command of SLURM."""
        answer = subprocess.run(command, env=os.environ | self.environment, capture_output=True, text=True, timeout=60)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    def jobs(self) -> dict[str, str]:
        """State of every job by its id, those that have ended too."""
        rows = self.ask("squeue", "--noheader", "--array", "--states=all", "--format=%i %T").splitlines()
        return dict(row.split() for row in rows)

    def alive(self) -> list[str]:
        return sorted(job for job, state in self.jobs().items() if state in ("PENDING", "RUNNING", "COMPLETING"))


def wait_for(ready: Callable[[], bool], seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.2)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def daemon(command: list[str], folder: Path) -> Iterator[subprocess.Popen]:
    """A program in the foreground of a process group of its own, ended with its children."""
    with (folder / f"{Path(command[0]).name}.out").open("w") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=out,
            env=os.environ | {"SLURM_CONF": str(folder / "slurm.conf")},
            process_group=0,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def one_node_slurm(folder: Path) -> Iterator[Slurm]:
    """Start the cluster, and stop it with all its jobs when the block ends."""
    absent = [name for name in ("slurmctld", "slurmd", "munged", "unshare") if shutil.which(name) is None]
    assert not absent and os.getuid() == 0, f"as root, with slurm-wlm and munge installed ({absent} not found)"
    private = folder / "private"
    for place in (private, folder / "state", folder / "spool"):
        place.mkdir()
    host, (controller, node) = socket.gethostname().partition(".")[0], free_ports(2)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 - 512
    names = {"controller_port": controller, "node_port": node, "cpus": CPUS, "memory": memory}
    (folder / "slurm.conf").write_text(CONF.format(host=host, folder=folder, **names))
    key = folder / "key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    files = [f"--{name}={folder}/munge.{name}" for name in ("socket", "pid-file", "log-file", "seed-file")]
    munged = ["munged", "--foreground", "--force", f"--key-file={key}", *files[1:], f"--socket={folder}/munge.sock"]
    own_tmp = f"mount -t tmpfs none {private} && exec slurmd -D"
    cluster = Slurm(folder, private)
    with ExitStack() as stack:
        stack.enter_context(daemon(munged, folder))
        wait_for((folder / "munge.sock").exists, 20)
        stack.enter_context(daemon(["slurmctld", "-D", "-i"], folder))
        stack.enter_context(daemon(["unshare", "--mount", "sh", "-c", own_tmp], folder))
        wait_for(lambda: answers(cluster), 30)
        try:
            yield cluster
        finally:
            alive = cluster.alive()
            if alive:
                cluster.ask("scancel", "--signal=KILL", *alive)
                cluster.ask("scancel", *alive)
                wait_for(lambda: not cluster.alive(), 30)


def answers(cluster: Slurm) -> bool:
    try:
        return cluster.ask("sinfo", "--noheader", "--format=%t").strip() == "idle"
    except AssertionError:  # the controller is not up yet
        return False
