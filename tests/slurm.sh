#!/usr/bin/env bash
# A real SLURM of this one machine, for tests: Debian's slurm-wlm and munge (apt-get install slurm-wlm munge), as root.
#   tests/slurm.sh start FOLDER [NODES]   this machine as so many nodes
#   tests/slurm.sh stop FOLDER
set -euo pipefail
what=$1 folder=$(realpath -m "$2") nodes=${3:-1} host=$(hostname -s)
export SLURM_CONF=$folder/slurm.conf

stop() {
    for pid in "$folder"/*.pid; do
        [ -f "$pid" ] && kill "$(cat "$pid")" 2>/dev/null || true
    done
    [ "$(readlink /etc/slurm/slurm.conf)" = "$SLURM_CONF" ] && rm /etc/slurm/slurm.conf || true
}

start() {
    mkdir -p "$folder/state"
    if ! munge -n 2>/dev/null | unmunge >/dev/null 2>&1; then
        install -d -o munge -g munge /run/munge
        runuser -u munge -- munged --pid-file=/run/munge/munged.pid
    fi
    memory=$(free -m | awk '/^Mem/ {print int($2 * 0.9)}')
    {
        cat <<CONF
ClusterName=test
SlurmctldHost=$host
SlurmUser=root
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmdSpoolDir=$folder/spool.%n
StateSaveLocation=$folder/state
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
ReturnToService=2
SchedulerParameters=sched_interval=1,sched_min_interval=0
SlurmdParameters=config_overrides
MinJobAge=3600
CONF
        for k in $(seq "$nodes"); do
            mkdir -p "$folder/spool.node$k"
            echo "NodeName=node$k NodeHostname=$host NodeAddr=127.0.0.1 Port=$((17000 + k)) CPUs=$(getconf _NPROCESSORS_ONLN) RealMemory=$memory"
        done
        echo "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO"
    } >"$SLURM_CONF"
    ln -sfn "$SLURM_CONF" /etc/slurm/slurm.conf # an srun within a job looks there alone
    slurmctld
    for k in $(seq "$nodes"); do slurmd -N "node$k"; done
    for _ in $(seq 60); do
        [ "$(sinfo -h -t idle -o %D 2>/dev/null)" = "$nodes" ] && return 0
        sleep 0.5
    done
    sinfo || true
    tail -5 "$folder"/*.log
    stop
    return 1
}

"$what"
