# Called by a native route: keeps a cell of an htable for each call, as a script does that forgets to delete one.
import KSR

MADE = 0


class Script:
    def child_init(self, rank):
        return 0

    def keep(self, msg):
        global MADE
        MADE += 1
        KSR.htable.sht_sets("t", "%s-%d" % (KSR.pv.get("$ci"), MADE), "a value of some length")
        return 1


def mod_init():
    return Script()
