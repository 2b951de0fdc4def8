# shellcheck shell=bash
# What a slice is, and what it costs, from the tables in tpu/data.
# Used by: vm.sh, gke.sh. Needs: commands.sh, TPU_DIR.

# Sets SLICE, ACCELERATOR, CHIPS, TOPOLOGY, HOSTS, PER_HOST, MACHINE, LABEL and CHIP (of one slice).
# shellcheck disable=SC2034 # the scripts that source this read them
find_slice() {
  local wanted=${1,,} line
  wanted=${wanted/#v5litepod-/v5e-}
  line=$(awk -F '\t' -v name="$wanted" '$1 == name' "$TPU_DIR/data/slices.tsv")
  if [[ -z $line || $wanted == slice ]]; then
    fail "there is no slice $(quoted_word "$1")" "such as $(near_slices "$wanted")" \
      "see tpu/data/slices.tsv; v4, v5p and tpu7x count TensorCores, two to a chip"
  fi
  IFS=$'\t' read -r SLICE ACCELERATOR CHIPS TOPOLOGY HOSTS PER_HOST MACHINE LABEL <<<"$line"
  CHIP=${SLICE%-*}
}

# Slices of the same chip, or of all when there is no such chip.
near_slices() {
  awk -F '\t' -v chip="${1%%-*}" '
    !/^#/ && $1 != "slice" { kind = $1; sub(/-.*/, "", kind); all[kind] = all[kind] " " $1 }
    END { if (chip in all) print substr(all[chip], 2, 120); else print "v5e-8, v5e-256, v5p-128, v6e-256, v4-32" }
  ' "$TPU_DIR/data/slices.tsv"
}

# The TPU VM image of CHIP, or OPT[runtime].
find_runtime() {
  RUNTIME=${OPT[runtime]:-$(awk -F '\t' -v chip="$CHIP" '$1 == chip { print $2 }' "$TPU_DIR/data/runtimes.tsv")}
  [[ -n $RUNTIME && $ACCELERATOR != - ]] ||
    fail "$SLICE is not had as TPU VMs" "v4, v5e, v5p or v6e" "use tpu/gke.sh: the Cloud TPU API has no $CHIP"
}

# The price of one chip-hour in a region ($1) and kind ($2: on_demand or spot); nothing when unknown.
chip_price() {
  awk -F '\t' -v chip="$CHIP" -v region="$1" -v column="$([[ $2 == spot ]] && echo 4 || echo 3)" \
    '$1 == chip && $2 == region && $column != "-" { print $column }' "$TPU_DIR/data/prices.tsv"
}

capacity_kind() {
  if [[ ${OPT[spot]:-} == yes ]]; then
    printf spot
  elif [[ ${OPT[reserved]:-} == yes ]]; then
    printf reserved
  else
    printf on_demand
  fi
}

# What it costs, before anything is created. $1: the zone or region.
# shellcheck disable=SC2153 # SLICES is how many, SLICE is which
show_cost() {
  local region kind price
  kind=$(capacity_kind)
  region=$1
  if [[ $1 =~ ^([a-z]+-[a-z]+[0-9]+)-[a-z0-9]+$ ]]; then region=${BASH_REMATCH[1]}; fi
  note "${OPT[slices]} x $SLICE: $((CHIPS * SLICES)) chips ($TOPOLOGY a slice)," \
    "$((HOSTS * SLICES)) VMs of $PER_HOST chips, ${kind/_/ }, $region"
  price=$(chip_price "$region" "$kind")
  if [[ $kind == reserved ]]; then
    note "cost: a reservation is paid by its contract, used or not; no price is in the table"
  elif [[ -z $price ]]; then
    note "cost: price not in the table (tpu/data/prices.tsv) for $CHIP, ${kind/_/ }, in $region; see cloud.google.com/tpu/pricing"
  else
    awk -v price="$price" -v chips="$((CHIPS * SLICES))" 'BEGIN {
      printf "cost: about $%.2f an hour, $%.2f a day: %d chips at $%.4f (list price; tpu/data/prices.tsv says from where and when)\n",
        price * chips, price * chips * 24, chips, price }' >&2
  fi
  note "      billed while the VMs exist, busy or not; disks, storage and network are extra"
}
