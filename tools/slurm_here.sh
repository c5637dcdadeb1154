#!/bin/sh
# A SLURM cluster of one node on this machine, for tests and for trying `fpt sweep --launcher slurm`.
#
#   apt-get install -y slurmctld slurmd slurm-client munge     (Debian and Ubuntu; this script installs nothing)
#   tools/slurm_here.sh start FOLDER    as root; leaves configuration, state, logs and process ids in FOLDER
#   export SLURM_CONF=FOLDER/slurm.conf
#   tools/slurm_here.sh stop FOLDER
#
# PORT (16817) and the one above it are taken; CPUS (all cores) is what the node offers. FOLDER is short: a path of
# more than 90 characters makes no socket.
set -eu

usage() {
    echo "usage: $0 start|stop FOLDER" >&2
    exit 2
}

[ $# -eq 2 ] || usage
mkdir -p "$2"
FOLDER=$(cd "$2" && pwd)
PORT=${PORT:-16817}
CPUS=${CPUS:-$(nproc)}
export SLURM_CONF="$FOLDER/slurm.conf"

start() {
    for program in munged slurmctld slurmd sinfo; do
        command -v "$program" >/dev/null || {
            echo "$program is missing: apt-get install -y slurmctld slurmd slurm-client munge" >&2
            exit 1
        }
    done
    mkdir -p "$FOLDER/state" "$FOLDER/spool"
    host=$(hostname)
    cat >"$SLURM_CONF" <<END
ClusterName=here
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$PORT
SlurmdPort=$((PORT + 1))
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$FOLDER/munge.socket
StateSaveLocation=$FOLDER/state
SlurmdSpoolDir=$FOLDER/spool
SlurmctldPidFile=$FOLDER/slurmctld.pid
SlurmdPidFile=$FOLDER/slurmd.pid
SlurmctldLogFile=$FOLDER/slurmctld.log
SlurmdLogFile=$FOLDER/slurmd.log
# no cgroups and no accounting: neither is there in a container
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,batch_sched_delay=0
ReturnToService=2
KillWait=5
MinJobAge=3600
JobRequeue=1
NodeName=$host NodeAddr=127.0.0.1 CPUs=$CPUS RealMemory=1000 State=UNKNOWN
PartitionName=here Nodes=$host Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
END
    head -c 1024 /dev/urandom >"$FOLDER/munge.key"
    chmod 400 "$FOLDER/munge.key"
    munged --force --key-file="$FOLDER/munge.key" --socket="$FOLDER/munge.socket" \
        --pid-file="$FOLDER/munged.pid" --log-file="$FOLDER/munged.log" --seed-file="$FOLDER/munge.seed"
    slurmctld -c
    slurmd
    for _ in $(seq 60); do
        if sinfo --noheader --format=%T 2>/dev/null | grep -q '^idle$'; then
            echo "export SLURM_CONF=$SLURM_CONF"
            return
        fi
        sleep 0.5
    done
    echo "no idle node after 30 seconds:" >&2
    tail -n 5 "$FOLDER"/*.log >&2
    stop
    exit 1
}

stop() {
    scancel --quiet --user "$(id -un)" 2>/dev/null || true
    for program in slurmd slurmctld munged; do
        if [ -s "$FOLDER/$program.pid" ]; then
            kill "$(cat "$FOLDER/$program.pid")" 2>/dev/null || true
        fi
    done
}

case $1 in
start) start ;;
stop) stop ;;
*) usage ;;
esac
