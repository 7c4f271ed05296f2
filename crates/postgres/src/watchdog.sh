# Runs one Postgres for an owner that holds the other end of standard input.
#
# A word on standard input stops Postgres: "fast" or "immediate". The end of standard input means that the owner is
# gone, by whatever end, so Postgres goes too, and with it the folder of a throwaway cluster.
#
# Prints the process id of Postgres, and ends when Postgres has ended, with its status.

program=$1 data=$2 config=$3 signal_at_end=$4 remove_at_end=$5

exec 3<&0 </dev/null
"$program" -D "$data" -c "config_file=$config" >&2 3<&- &
server=$!
echo "$server"
exec >&2

abandoned=
trap 'abandoned=yes' USR1
trap 'kill -INT "$server"' TERM INT HUP

(
  while read -r word; do
    case $word in
      fast) kill -INT "$server" ;;
      immediate) kill -QUIT "$server" ;;
    esac
  done
  kill -USR1 $$
  kill "-$signal_at_end" "$server"
  # A fast stop waits for replication clients to take what is left for them, and they may never.
  left=150
  while [ "$left" -gt 0 ] && kill -0 "$server"; do
    sleep 0.1
    left=$((left - 1))
  done
  kill -QUIT "$server"
) <&3 3<&- 2>/dev/null &
reader=$!
exec 3<&-

# A signal to this shell ends `wait` early, with Postgres still running.
wait "$server"
status=$?
while kill -0 "$server" 2>/dev/null; do
  wait "$server"
  status=$?
done
kill "$reader" 2>/dev/null

if [ -n "$abandoned" ] && [ -n "$remove_at_end" ]; then
  cd / && rm -rf -- "$remove_at_end"
fi
exit "$status"
